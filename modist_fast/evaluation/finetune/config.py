"""The options of training a whole classifier, and its recipes as functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from modist_fast.config import CheckpointConfig, check_beginning, check_out
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig, LabelledConfig, SplitConfig
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.evaluation.finetune.schedule import SupervisedOptimConfig, check_schedule
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, DeviceOption, PrecisionOption
from modist_fast.run.options import check_ranges
from modist_pipelines.ranges import COUNT, FROM_ZERO, MOMENTUM, PART, POSITIVE, SHARE, Range, ranged

Plain = tyro.conf.arg(name="")  # options under their own names, without the part's before them


@dataclass(frozen=True)
class TrainingAugmentation:
    """How a training clip is cut and coloured; one draw for all its frames."""

    crop: Literal["resized", "scaled"] = "resized"
    """resized: a crop of random area and aspect, brought to a square, and colour (the authors' UCF101 recipe);
    scaled: a random square of the frame, its short side scaled to 8/7 … 10/7 of the crop, and no colour (PySlowFast's
    SSv2 recipe)."""
    crop_area: tuple[float, float] = ranged((0.3, 1.0), POSITIVE)
    """resized: share of the frame that a crop covers."""
    crop_aspect: tuple[float, float] = ranged((0.5, 2.0), POSITIVE)
    """resized: width over height."""
    flip: float = ranged(0.5, SHARE)
    """Probability. 0 where left and right differ in meaning."""
    color: float = ranged(0.6, SHARE)
    """resized: probability of brightness, contrast and saturation, each by 1 ± `color_strength`."""
    color_strength: float = ranged(0.4, SHARE)
    """How far brightness, contrast and saturation may change: by a factor from 1 - s to 1 + s."""
    gray: float = ranged(0.5, SHARE)
    """resized: probability."""


@dataclass(frozen=True, kw_only=True)
class LabelledTrainingConfig:
    """What every training of a whole net with labels takes."""

    out: Path
    """The run directory: metrics, checkpoints, result.json, the trained backbone and its linear layer."""
    network: Annotated[BackboneConfig, Plain]
    preset: str = ""
    """Where the defaults come from; an unknown name lists those there are."""
    optim: SupervisedOptimConfig = field(default_factory=SupervisedOptimConfig)
    epochs: float = ranged(200.0, POSITIVE)
    """Passes over the training videos."""
    batch_size: int = ranged(64, COUNT)
    """Clips a step, over all processes."""
    group_size: int = ranged(8, COUNT)
    """Clips that go through the net, and its batch norm, together; the number of processes does not change it."""
    dropout: float = ranged(0.5, MOMENTUM)
    """Share of the features that training leaves out before the last layer."""
    frozen: str = "none"
    """Keep this part of the backbone and all before it as they are: stem, res2 to res5, or of a ViT stem, block1 to
    block12 (docs/models.md); all: train the linear layer alone."""
    precise_bn_clips: int = ranged(12_800, FROM_ZERO)
    """Training clips that the batch-norm statistics are computed from at the end (PySlowFast: 200 batches of 64); 0
    keeps the moving averages."""
    device: DeviceOption = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    collective_timeout: float = ranged(COLLECTIVE_TIMEOUT, COUNT)
    """Seconds that a process waits for the others in one exchange before it gives up."""
    hang_minutes: float = ranged(45.0, FROM_ZERO)
    """A process of which no step has ended for so long writes OUT/hang-rankR.txt, says where each rank stands, and
    ends; 0 never. Longer than --collective-timeout, which names an exchange that another rank did not come to."""
    precision: PrecisionOption = "auto"
    """Number format of the nets. auto: bf16 where the hardware multiplies it, else fp16 on a GPU and fp32 on a CPU; the
    log says which."""
    tf32: bool = True
    """On a GPU, products of float32 numbers may round them to TF32's 10 bits; --no-tf32 has them in full. In bf16 and
    fp16 little is left that this concerns."""
    deterministic: bool = False
    """The same bits every time on a GPU too, at a price in speed: no search for the fastest convolutions, and slower
    ones among them. A CPU gives them in any case."""
    compile: bool = False
    """torch.compile the net."""
    num_threads: int = ranged(0, FROM_ZERO)
    """Reading and decoding threads of each process; 0 takes its share of the cores."""
    max_steps: int | None = ranged(None, COUNT)
    """Stop training after this many steps; the schedule stays that of --epochs."""
    resume: Literal["no", "auto"] = "no"
    """auto: go on from OUT/checkpoints/latest, or the newest whole checkpoint; begin where there is no run yet."""
    requeue_exit_code: int | None = ranged(None, Range(1, 255))
    """Code with which the process ends where a signal stopped it and it saved; by default 128 and the signal's number.
    torchrun itself ends with 1 whatever its processes end with."""
    overwrite: bool = False
    """Begin anew where OUT holds a run, whose files are removed first. Not for a job that is started again after a
    kill: it would remove its own."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = ranged(0, FROM_ZERO)
    """Of the linear layer, a random backbone, the order, the clips, the subset and the intervals."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelledTrainingConfig):
    """Train backbone and classifier together, from a pre-trained backbone (paper section 4.2, "full")."""

    data: Annotated[LabelledConfig, Plain] = field(default_factory=LabelledConfig)
    split: Annotated[SplitConfig, Plain] = field(default_factory=SplitConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Of the test; clip length, stride, crop and sampling are those of training too."""
    augmentation: TrainingAugmentation = field(default_factory=TrainingAugmentation)
    fraction: float = ranged(1.0, PART)
    """Low-shot: train on this share of each class's training videos, at least one; drawn by the seed."""
    shares: tuple[float, ...] = ranged((), PART)
    """Low-shot in one command: train on each of these shares in turn, each in OUT/shares; in place of --fraction."""


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(FinetuneConfig):
    """The supervised baseline: the same training, from random weights."""

    network: Annotated[BackboneConfig, Plain] = field(default_factory=lambda: BackboneConfig(backbone="random"))


Config = TypeVar("Config", bound=FinetuneConfig)
AnyConfig = TypeVar("AnyConfig", bound=LabelledTrainingConfig)


_PAPER_VIEWS = ViewsConfig(
    temporal=10,
    temporal_rule="paper",
    spatial=3,
    num_frames=32,
    stride=8,
    crop_size=224,
    test_crop_size=256,
    pooling="sliding",
)


def ucf101_full(base: Config) -> Config:
    """UCF101, all layers: 32 × 8 clips, 200 epochs, 10 × 3 views of 256² at test (the authors' configuration)."""
    return replace(
        base,
        preset="ucf101-full",
        views=_PAPER_VIEWS,
        augmentation=TrainingAugmentation(),
        optim=SupervisedOptimConfig(),
        epochs=200.0,
        batch_size=64,
        group_size=8,
        dropout=0.5,
    )


def hmdb51_full(base: Config) -> Config:
    """HMDB51, all layers: as UCF101."""
    return replace(ucf101_full(base), preset="hmdb51-full")


def ucf101_linear(base: Config) -> Config:
    """UCF101, the linear layer alone, on clips drawn anew in every epoch (the authors' configuration).

    The paper's ablations take 8 × 8 clips: --views.num-frames 8.
    """
    return replace(
        base,
        preset="ucf101-linear",
        views=_PAPER_VIEWS,
        augmentation=TrainingAugmentation(color=0.0, gray=0.0),
        optim=SupervisedOptimConfig(lr=32.0, lr_batch_size=256, weight_decay=0.0, warmup_epochs=0.0),
        epochs=200.0,
        batch_size=256,
        group_size=32,
        dropout=0.0,
        frozen="all",
        precise_bn_clips=0,
    )


def hmdb51_linear(base: Config) -> Config:
    """HMDB51, the linear layer alone: as UCF101."""
    return replace(ucf101_linear(base), preset="hmdb51-linear")


def ucf101_lowshot(base: Config) -> Config:
    """UCF101, all layers, on the seven shares of the paper's low-shot table."""
    return replace(ucf101_full(base), preset="ucf101-lowshot", shares=(0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0))


def k400_supervised(base: Config) -> Config:
    """Kinetics-400 from scratch with labels, the paper's Supervised baseline; fine-tune from its backbone then.

    The recipe of PySlowFast's SLOW_8x8_R50.
    """
    return replace(
        base,
        preset="k400-supervised",
        views=replace(_PAPER_VIEWS, num_frames=8, temporal_rule="ends"),
        augmentation=TrainingAugmentation(crop="scaled"),
        optim=SupervisedOptimConfig(lr=0.1, warmup_epochs=34.0, warmup_start_lr=0.01),
        epochs=196.0,
        batch_size=64,
        group_size=8,
        dropout=0.5,
    )


def ssv2_full(base: Config) -> Config:
    """Something-Something v2, all layers: a frame of each of 16 segments, 22 epochs, one view (PySlowFast's recipe).

    Its batch norm spans 4 of 8 GPUs of 2 clips each: groups of 8.
    """
    return replace(
        base,
        preset="ssv2-full",
        views=ViewsConfig(
            temporal=1,
            spatial=1,
            sampling="segments",
            num_frames=16,
            stride=8,
            crop_size=224,
            test_crop_size=256,
            pooling="sliding",
            short_side=256,
        ),
        augmentation=TrainingAugmentation(crop="scaled", flip=0.0),
        optim=SupervisedOptimConfig(
            lr=0.03,
            lr_batch_size=16,
            weight_decay=1e-6,
            warmup_epochs=0.19,
            warmup_start_lr=1e-4,
            policy="steps",
            step_epochs=(14.0, 18.0),
        ),
        epochs=22.0,
        batch_size=16,
        group_size=8,
        dropout=0.5,
        precise_bn_clips=3200,  # 200 batches of 16
    )


def ssv2_linear(base: Config) -> Config:
    """Something-Something v2, the linear layer alone: as all layers."""
    return replace(ssv2_full(base), preset="ssv2-linear", frozen="all", precise_bn_clips=0)


def small(base: Config) -> Config:
    """Minutes on two CPU cores, on a few hundred small videos; clip length and crop as the backbone's card says."""
    return replace(
        base,
        preset="small",
        views=ViewsConfig(temporal=3, spatial=1),
        augmentation=TrainingAugmentation(
            crop_area=(0.5, 1.0), crop_aspect=(3 / 4, 4 / 3), color_strength=0.2, gray=0.1
        ),
        optim=SupervisedOptimConfig(lr=0.04, warmup_epochs=3.0),
        epochs=30.0,
        batch_size=32,
        group_size=16,
        precise_bn_clips=512,
        checkpoint=CheckpointConfig(every=100),
    )


RECIPES: dict[str, Callable] = {
    "ucf101-full": ucf101_full,
    "ucf101-linear": ucf101_linear,
    "ucf101-lowshot": ucf101_lowshot,
    "hmdb51-full": hmdb51_full,
    "hmdb51-linear": hmdb51_linear,
    "ssv2-full": ssv2_full,
    "ssv2-linear": ssv2_linear,
    "k400-supervised": k400_supervised,
    "small": small,
}


def with_recipe(base: AnyConfig, name: str, recipes: Mapping[str, Callable] = RECIPES) -> AnyConfig:
    """`base` with a recipe's values.

    Raises:
        ConfigError: there is none of this name; the message lists those there are.
    """
    if name not in recipes:
        raise ConfigError(f"--preset {name}: no such preset. There are: {', '.join(recipes)}.")
    return recipes[name](base)


def check(config: FinetuneConfig, world_size: int) -> None:
    """Refuse what cannot work before anything expensive starts.

    Raises:
        ConfigError: naming the options and the way out.
    """
    check_training(config, world_size)
    if config.shares and config.fraction < 1:
        raise ConfigError(
            f"--shares {' '.join(map(str, config.shares))}: leave out --fraction, which is one share alone."
        )
    if isinstance(config, SupervisedConfig) and config.network.backbone.partition(":")[0] != "random":
        raise ConfigError(
            f"supervised begins with random weights; --backbone {config.network.backbone} has others. Use finetune, or "
            "random:RUN for a network shaped as that run's."
        )


def check_training(config: LabelledTrainingConfig, world_size: int) -> None:
    """The part of `check` that every training with labels shares.

    Raises:
        ConfigError: naming the options and the way out.
    """
    check_ranges(config)
    check_out(config.out)
    check_beginning(config.resume, config.overwrite)
    batch, group = config.batch_size, config.group_size
    if group < 2:
        raise ConfigError(f"--group-size {group}: batch norm needs at least 2 clips to normalize over.")
    if batch < 1 or batch % (group * world_size):
        raise ConfigError(
            f"--batch-size {batch} does not split into groups of --group-size {group} over {world_size} "
            f"process(es): it must be a multiple of {group * world_size}. Change one of the three."
        )
    if config.frozen == "all" and config.precise_bn_clips:
        raise ConfigError("--frozen all keeps the batch-norm statistics too: pass --precise-bn-clips 0.")
    check_schedule(config.optim, config.epochs)
