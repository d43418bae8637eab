"""The configuration of a pre-training run, and what of it cannot work. Without torch: see `host.choices`."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from modist_fast.errors import ConfigError
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, Arch, DeviceOption, PrecisionOption
from modist_fast.run.options import check_ranges
from modist_fast.run.uneven import uneven
from modist_pipelines.clips.graph import HW_DECODER_LOAD, MotionDecoding, VideoEngine
from modist_pipelines.motion_inputs import DEFAULT, DEFAULT_OF_RAW_VIDEOS, MOTION_INPUTS, find_motion_input
from modist_pipelines.plan import Augmentation, ClipSpec, MotionControl, MotionRule, PlanConfig
from modist_pipelines.ranges import COUNT, FRAME_RATE, FROM_ZERO, MOMENTUM, POSITIVE, SHARE, Range, ranged
from modist_pipelines.remote.urls import url_of, without_keys

OutKind = Literal["folder", "file", "either"]
CrossNegatives = Literal["own", "other"]
if TYPE_CHECKING:
    MotionChoice: TypeAlias = str
else:
    MotionChoice = Literal["auto", *MOTION_INPUTS]


@dataclass(frozen=True)
class ModelConfig:
    """The networks (paper Table 1, and others: docs/models.md)."""

    arch: Arch = "r50"
    """Kind of the backbones; that of the motion pathway follows the visual one (docs/models.md)."""
    visual_width: int = ranged(64, COUNT)
    """Channels of the visual pathway's first convolution; of a ViT, the dimensions of a head."""
    motion_width: int = ranged(8, COUNT)
    """Channels of the motion pathway's first convolution: 1/8 of the visual's in the paper."""
    head: Literal["mlp", "bn", "cvrl"] = "mlp"
    """Projection: two linear layers (the authors'), the same with batch norm, or CVRL's three hidden layers."""
    head_init: Literal["uniform", "normal"] = "uniform"
    """Linear layers of the heads begin as torch's do, or with N(0, 0.01) and no bias (the authors')."""
    head_width: int = ranged(2048, COUNT)
    """Channels of the projection's hidden layers."""
    embedding_dim: int = ranged(128, COUNT)
    """Numbers of a key."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned from what."""

    motion: bool = True
    """False trains RGB-only, Eq. 1 alone: no motion pathway, no motion clips are even read."""
    motion_loss: bool = True
    """False leaves out Lm (Table 3c, "- Lm")."""
    cross_negatives: CrossNegatives = "other"
    """The negatives of Lmv: the positive's modality ("other"), or the query's "own", as Eq. 2 prints. A positive of
    the other modality can be told from negatives of one's own by its modality alone (docs/evidence.md)."""
    cross_warmup_epochs: float = ranged(0.0, FROM_ZERO)
    """Epochs over which the weight of Lmv grows from 0 to 1. For `own` negatives, with which Lmv begins far above ln N
    and overshoots (docs/evidence.md)."""
    temperature: float = ranged(0.1, POSITIVE)
    """τ of Eq. 1."""
    bank_size: int = ranged(65536, COUNT)
    """Keys in each bank, N of Eq. 1."""
    key_momentum: float = ranged(0.999, MOMENTUM)
    """λ of θ' ← λθ' + (1-λ)θ."""
    shuffle_bn: bool = True
    """Keys are normalized among other samples than their queries: batch statistics cannot leak the match."""


@dataclass(frozen=True)
class OptimConfig:
    """SGD with a cosine schedule (PySlowFast's MoCo recipe for K400: the paper names none)."""

    name: Literal["sgd", "lars", "lamb"] = "sgd"
    """lars and lamb are for large batches; lamb is apex's."""
    implementation: Literal["torch", "apex"] = "torch"
    """apex: NVIDIA's FusedSGD or FusedLAMB, on GPUs. torch's SGD is one fused launch too, and CUDA graphs record it."""
    lr: float = ranged(0.1, FROM_ZERO)
    """Peak learning rate for `lr_batch_size` samples a step; scaled linearly with --batch-size."""
    lr_batch_size: int = ranged(64, COUNT)
    """Samples a step that `lr` and `warmup_start_lr` are meant for."""
    momentum: float = ranged(0.9, MOMENTUM)
    """Nesterov's; of LAMB, the decay of the mean gradient."""
    weight_decay: float = ranged(1e-4, FROM_ZERO)
    """Not applied to biases and batch norm."""
    warmup_epochs: float = ranged(35.0, FROM_ZERO)
    """Epochs over which the rate grows to its peak, in a line."""
    warmup_start_lr: float = ranged(0.001, FROM_ZERO)
    """Also for `lr_batch_size` samples a step."""
    trust_coefficient: float = ranged(0.001, POSITIVE)
    """LARS only: the share of a weight's norm that a step may be."""


@dataclass(frozen=True)
class ClipsConfig:
    """Which clips the nets see."""

    crop_size: int = ranged(224, COUNT)
    """Pixels of a clip's height and width."""
    visual: ClipSpec = field(default_factory=lambda: ClipSpec(num_frames=8, stride=8))
    motion: ClipSpec = field(default_factory=lambda: ClipSpec(num_frames=16, stride=4))
    motion_input: MotionChoice = "auto"
    """What the motion pathway sees (Table 3b; docs/motion-inputs.md). auto: edges from a store, which must hold what is
    asked; frame difference from raw videos, which give nothing else."""
    motion_flip: float = ranged(0.0, SHARE)
    """Probability that a motion clip is mirrored (the paper flips RGB clips alone). What points to the right then
    points to the left: the u of `flow` changes its sign."""
    motion_threshold: float = ranged(0.02, FROM_ZERO)
    """γ: only motion windows whose mean P exceeds it; 0 takes any window (Table 3c). P is a pixel of the motion input
    as the nets see it, in [0, 1]: γ is a share of full scale, 0.2 for 0.02 in a store's units of [0, 10]."""
    motion_rule: MotionRule = "window"
    """What must exceed γ: the mean of a window, or each of its frames; the paper's words allow both."""
    min_shift_seconds: float = ranged(0.0, FROM_ZERO)
    """Least time between the starts of query and key (the authors' code: 0.5). A video too short for it takes the
    farthest start that it has."""
    max_shift_seconds: float = ranged(0.0, FROM_ZERO)
    """Most of it (the authors' code: 10); 0: any."""
    synchronized: bool = False
    """True starts [vq, mk] and [mq, vk] together (Table 3c, "- temp. jitter")."""
    motion_control: MotionControl = "none"
    """For experiments alone: motion clips that do not show the motion of the RGB clips. another-video: those of one
    other video, always the same; any-time: frames from anywhere in the video, in any order (docs/evidence.md)."""
    subset: int | None = ranged(None, COUNT)
    """Train on this many videos, drawn by the seed (K400-mini: 60000)."""
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class LoaderConfig:
    """How hard the host works. Zero means: chosen from the machine, and said in the log."""

    num_threads: int = ranged(0, FROM_ZERO)
    """Decoding threads of each process."""
    prefetch: int = ranged(0, FROM_ZERO)
    """Batches prepared ahead."""
    read_patience: float = ranged(60.0, POSITIVE)
    """Seconds after which a read that has not come back is begun again beside the first."""
    hw_decoder_load: float = ranged(HW_DECODER_LOAD, SHARE)
    """Share of a GPU's JPEGs that its JPEG engines decode; host threads and the GPU's cores decode the rest. The
    default is DALI's. On an H200, 0.65 and 1 decoded as many a second, and 0 half of that (docs/gpu.md)."""
    video_engine: VideoEngine = "dali"
    """With --source video on a GPU: dali decodes a file from its first frame on, torchcodec from the key frames before
    the frames wanted. Which is faster was not measured."""
    motion_decoding: MotionDecoding = "auto"
    """Who decodes the motion maps where a GPU makes the clips: the GPU, or the host's threads beside it. They are two
    thirds of a sample's JPEGs. auto: the host where a process has 8 threads or more (docs/throughput-model.md)."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved. It is always saved at its end and on SIGTERM."""

    every: int = ranged(1000, COUNT)
    """Steps between checkpoints."""
    keep: int = ranged(2, COUNT)
    """Newest checkpoints kept."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """Where the disk is full or cannot be written: end the run, or go on to the next save. The last save must succeed
    either way. The checkpoint before stays whole."""


@dataclass(frozen=True)
class ProfileConfig:
    """What to record of a few steps, into OUT/profile. Off, it costs nothing; on, these steps are slower."""

    trace: bool = False
    """torch.profiler's trace of each rank, loader threads included; open trace-rankR.json.gz in ui.perfetto.dev."""
    memory: bool = False
    """A GPU's allocations with their stacks; drop memory-rankR.pickle on pytorch.org/memory_viz."""
    cuda_window: bool = False
    """Call cudaProfilerStart and Stop around the steps, for nsys and ncu: see profiling/nsys_pretrain.sh."""
    start: int = ranged(10, FROM_ZERO)
    """Steps of this process before the first that is recorded."""
    steps: int = ranged(5, COUNT)
    """How many."""


@dataclass(frozen=True)
class TrainConfig:
    """Pre-train MoDist on a store made by modist prepare, or on raw videos."""

    store: Path | None
    """The store to train from: a folder, or its URL (docs/scale-data.md)."""
    out: Path
    """The run directory: metrics, checkpoints, pictures, backbone."""
    source: Literal["store", "video"] = "store"
    """video: decode the files of --videos in every epoch. No preparation, but no flow edges either, no choice of
    windows by motion, and several frames decoded for each one used."""
    videos: Path | None = None
    """With --source video: the folder of videos."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of raw videos that are folders of pictures (img_00001.jpg)."""
    cache: Path | None = None
    """Folder on a disk of this machine that keeps what is read by URL; processes share it (docs/scale-data.md)."""
    cache_gb: float = ranged(50.0, Range(1e-6, 1e6))
    """With --cache: gigabytes that it may take. What was used last stays."""
    preset: str = ""
    """Where the defaults come from."""
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
    comm_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which gradients go from process to process. bfloat16: half the bytes, sums still in float32;
    another number of processes then gives other sums, beyond their last bits (docs/scale.md)."""
    deterministic: bool = False
    """The same bits every time on a GPU too, at a price in speed: no search for the fastest convolutions, and slower
    ones among them. A CPU gives them in any case."""
    compile: bool = False
    """torch.compile the nets."""
    graphs: Literal["auto", "off"] = "auto"
    """CUDA graphs. auto: where one process trains on one GPU, the step's parts are recorded and replayed. With several
    processes, in fp16, with apex and on a CPU every kernel is launched by itself."""
    seed: int = ranged(0, FROM_ZERO)
    """Of the nets' first weights, the order of the videos, their clips and the subset."""
    batch_size: int = ranged(64, COUNT)
    """Samples (videos) a step, over all processes."""
    group_size: int = ranged(8, COUNT)
    """Samples that go through the nets, and their batch norm, together. A process runs its share of the batch
    group by group and accumulates gradients, so any number of processes computes the same function."""
    follow_videos: bool = False
    """Where there are fewer usable videos than --batch-size: take smaller batches, groups and banks, and say so. The
    presets for few videos do; otherwise such a run is refused."""
    groups_together: int = ranged(0, FROM_ZERO)
    """Groups that go through the nets in one pass, each still normalized by itself: fewer launches, more memory.
    0: as many as the GPU's memory holds by estimate; one on a CPU, which gains nothing."""
    epochs: int = ranged(200, COUNT)
    """Passes over the videos; the schedule of the learning rate ends with them. A resumed run may have more: the rest
    of it takes the rates of the longer schedule."""
    max_steps: int | None = ranged(None, COUNT)
    """Stop after this many steps; the schedule stays that of --epochs."""
    track: Literal["none", "wandb", "mlflow"] = "none"
    """Who is told the figures beside OUT/tensorboard: Weights & Biases or MLflow, where they are installed. What they
    ask for (account, address, WANDB_MODE=offline) is their own."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do where keys of 200 steps all point one way and find their own no better than by chance."""
    on_bad_step: Literal["stop", "skip"] = "stop"
    """What to do with a step whose gradients are not finite on any rank: end the run, or leave it out. Then weights,
    momentum nets, banks, statistics and the optimizer stay as they were, on all ranks (docs/reliability.md)."""
    max_bad_steps: int = ranged(10, COUNT)
    """With --on-bad-step skip: so many in the whole run; one more ends it."""
    init_from: str | None = None
    """Begin with the backbones of another run (a run directory or a checkpoint: visual and motion), or with the visual
    one of a file (docs/weights.md). Heads, banks and optimizer begin as ever. A resumed run has begun already."""
    resume: Literal["no", "auto"] = "no"
    """auto: go on from OUT/checkpoints/latest, or the newest whole checkpoint; begin where there is no run yet."""
    requeue_exit_code: int | None = ranged(None, Range(1, 255))
    """Code with which the process ends where a signal stopped it and it saved; by default 128 and the signal's number.
    torchrun itself ends with 1 whatever its processes end with."""
    overwrite: bool = False
    """Begin anew where OUT holds a run, whose files are removed first. Not for a job that is started again after a
    kill: it would remove its own."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def plan(self, grid: int, fps: float = 30.0) -> PlanConfig:
        """The rule by which clips are drawn from a store on this grid of so many nominal frames a second."""
        return PlanConfig(
            visual=self.clips.visual,
            motion=self.clips.motion,
            crop_size=self.clips.crop_size,
            grid=grid,
            fps=fps,
            motion_threshold=self.clips.motion_threshold if self.source == "store" else 0.0,
            motion_rule=self.clips.motion_rule,
            shift_seconds=(self.clips.min_shift_seconds, self.clips.max_shift_seconds or math.inf),
            synchronized=self.clips.synchronized,
            motion_control=self.clips.motion_control,
            augmentation=self.clips.augmentation,
            motion_input=self.motion_input if self.objective.motion else None,
            motion_flip=self.clips.motion_flip,
        )

    @property
    def motion_input(self) -> str:
        """`clips.motion_input`, with "auto" resolved."""
        if self.clips.motion_input != "auto":
            return self.clips.motion_input
        return DEFAULT if self.source == "store" else DEFAULT_OF_RAW_VIDEOS

    @property
    def motion_channels(self) -> int:
        """Channels of a motion clip; 0 for RGB-only."""
        return find_motion_input(self.motion_input).channels if self.objective.motion else 0


def check_beginning(resume: str, overwrite: bool) -> None:
    """Refuse to go on with a run and to throw it away.

    Raises:
        ConfigError: both are asked for.
    """
    if overwrite and resume != "no":
        raise ConfigError(
            f"--overwrite --resume {resume}: the one begins anew, the other goes on with the run in --out. Pass one of "
            "the two."
        )


def check_out(out: Path, kind: OutKind = "folder") -> None:
    """Refuse a folder that cannot be one.

    Args:
        kind: what it is to be; what it lies in is a folder in any case.

    Raises:
        ConfigError: it, or what it would lie in, is a file, or takes no new folder.
    """
    if (url := url_of(out)) is not None:
        raise ConfigError(
            f"--out {without_keys(url)} is a URL, and files are written to disks alone. Write to a folder of this "
            "machine and copy it when it is done (docs/scale-data.md)."
        )
    if out.is_dir() and kind == "file":
        raise ConfigError(f"--out {out} is a folder. Name a file.")
    if out.exists():
        if kind == "folder" and not out.is_dir():
            raise ConfigError(f"--out {out} is a file. Choose a folder.")
        return
    above = next((folder for folder in out.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(f"--out {out} cannot be made: {above} is a file. Choose another folder.")
    if above is not None and not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out} cannot be made: {above} may not be written. Choose another folder.")


def check(config: TrainConfig, world_size: int) -> None:
    """Refuse what cannot work before anything expensive starts.

    Raises:
        ConfigError: naming the options and the way out.
    """
    check_ranges(config)
    check_beginning(config.resume, config.overwrite)
    check_out(config.out)
    given, needed, other = (
        (config.store, "--store", "--videos") if config.source == "store" else (config.videos, "--videos", "--store")
    )
    if given is None:
        raise ConfigError(
            f"{needed} is missing: --source {config.source} reads from it, not from {other}. Pass {needed} FOLDER, "
            "or the other --source."
        )
    if config.cache is not None and url_of(given) is None:
        raise ConfigError(f"--cache {config.cache} keeps what is read by URL, and {needed} is none. Leave it out.")
    batch, group = config.batch_size, config.group_size
    optim = config.optim
    if (optim.name, optim.implementation) in (("lamb", "torch"), ("lars", "apex")):
        raise ConfigError(
            f"--optim.name {optim.name} --optim.implementation {optim.implementation}: there is no such optimizer. "
            "Use sgd with either implementation, lars with torch, or lamb with apex."
        )
    if config.on_bad_step == "skip" and optim.implementation == "apex":
        raise ConfigError(
            "--on-bad-step skip --optim.implementation apex: apex's optimizers cannot leave a step out on the device. "
            "Take torch's, or --on-bad-step stop."
        )
    if not 0 <= config.clips.motion_threshold < 1:
        raise ConfigError(
            f"--clips.motion-threshold {config.clips.motion_threshold}: γ is a share of the motion maps' full scale, "
            "from 0 (any window) to below 1. Divide a value that is in a store's units of [0, 10] by 10."
        )
    low, high = config.clips.min_shift_seconds, config.clips.max_shift_seconds
    if not 0 <= low < (high or math.inf):
        raise ConfigError(
            f"--clips.min-shift-seconds {low:g} --clips.max-shift-seconds {high:g}: the first is at least 0 and below "
            "the second, unless that is 0, which means any."
        )
    blur_window = config.clips.augmentation.blur_window
    if blur_window < 0 or (blur_window and blur_window % 2 == 0):
        raise ConfigError(
            f"--clips.augmentation.blur-window {blur_window}: a Gaussian has an odd number of taps. Give one, or 0 for "
            "as many as its sigma asks for."
        )
    if batch % (group * world_size):
        raise ConfigError(uneven(batch, group, world_size, config.out))
    if config.groups_together < 0 or batch // (group * world_size) % max(1, config.groups_together):
        raise ConfigError(
            f"--groups-together {config.groups_together}: a process has {batch // (group * world_size)} group(s) a "
            "step, which do not split into passes of so many. Use a divisor, or 0 to have it chosen."
        )
    if group == 1:
        raise ConfigError("--group-size 1: batch norm needs at least 2 samples to normalize over.")
    if config.objective.bank_size < batch:
        raise ConfigError(
            f"--objective.bank-size {config.objective.bank_size} is smaller than --batch-size {batch}: a step "
            "would overwrite its own keys. Use a bank of several batches."
        )
    if config.objective.shuffle_bn and batch == group:
        raise ConfigError(
            f"--objective.shuffle-bn needs at least two groups to shuffle between, but --batch-size "
            f"{batch} is one group of --group-size {group}. Use a --group-size of at most {batch // 2}, or pass "
            "--objective.no-shuffle-bn and accept that batch norm can leak the match of query and key."
        )
