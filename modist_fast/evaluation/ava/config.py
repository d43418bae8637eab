"""The options of `modist evaluate ava`, and its recipes as functions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from modist_fast.config import CheckpointConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.finetune.config import LabelledTrainingConfig, Plain, check_training
from modist_fast.evaluation.finetune.schedule import SupervisedOptimConfig
from modist_pipelines.ranges import COUNT, FRAME_RATE, FROM_ZERO, POSITIVE, SHARE, ranged


@dataclass(frozen=True, kw_only=True)
class AvaDataConfig:
    """AVA's files."""

    videos: Path | None = None
    """A folder of the movies' videos, called as AVA's lists call them, each a file or a folder of its frames; or
    --frames, or --store."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of those of --videos that are folders of pictures (img_00001.jpg); AVA's have 30."""
    frames: Path | None = None
    """The folder of the extracted frames, 30 a second; with --frame-lists."""
    frame_lists: tuple[Path, ...] = ()
    """Lists of the frames of both parts: original_vido_id video_id frame_id path labels."""
    store: Path | None = None
    """A store made by modist prepare --grid 2 (or 1)."""
    start_second: float = ranged(900.0, FROM_ZERO)
    """Of the movie, at which videos or frames begin."""
    train_boxes: tuple[Path, ...] = ()
    """CSVs of annotated boxes to train on: video, second, x1, y1, x2, y2, action, person."""
    train_predicted_boxes: tuple[Path, ...] = ()
    """CSVs of a person detector's boxes with the actions that they got; their last column is a score."""
    test_truth: Path | None = None
    """The CSV of annotated boxes that is tested against."""
    test_boxes: Path | None = None
    """The CSV of a person detector's boxes that are classified; without it, the annotated ones are."""
    min_score: float = ranged(0.9, SHARE)
    """A detector's boxes below this score are left out."""
    classes: Path | None = None
    """The .pbtxt of the actions that count (AVA: 60)."""
    excluded: tuple[Path, ...] = ()
    """CSVs of keyframes that do not count: video, second."""
    num_actions: int = ranged(80, COUNT)
    """Actions that the detector tells apart, numbered from 1; more than those that count."""


@dataclass(frozen=True, kw_only=True)
class AvaConfig(LabelledTrainingConfig):
    """Train an action detector on AVA, and its mAP at an IoU of .5 (paper Table 5, recipe of SlowFast)."""

    data: Annotated[AvaDataConfig, Plain] = field(default_factory=AvaDataConfig)
    num_frames: int = ranged(8, COUNT)
    """Of a clip about a keyframe."""
    stride: int = ranged(8, COUNT)
    """Nominal frames (30 a second) from one frame to the next."""
    crop_size: int = ranged(224, COUNT)
    """Pixels of a training crop, cut where the short side is scaled to 8/7 … 10/7 of it (256 … 320)."""
    flip: float = ranged(0.5, SHARE)
    """Probability in training."""
    short_side: int = ranged(256, COUNT)
    """Pixels of the whole frame's short side at test."""
    optim: SupervisedOptimConfig = field(
        default_factory=lambda: SupervisedOptimConfig(
            lr=0.1,
            weight_decay=1e-7,
            warmup_epochs=5.0,
            warmup_start_lr=0.000125,
            policy="steps",
            step_epochs=(10.0, 15.0),
        )
    )
    epochs: float = ranged(20.0, POSITIVE)
    """Passes over the training keyframes."""
    precise_bn_clips: int = ranged(0, FROM_ZERO)
    """Training clips that the batch-norm statistics are computed from at the end; 0 keeps the moving averages."""


def ava_small(base: AvaConfig) -> AvaConfig:
    """Minutes on two CPU cores, on the set that modist make-demo-videos --ava makes."""
    return replace(
        base,
        preset="small",
        crop_size=80,
        short_side=96,
        optim=SupervisedOptimConfig(lr=4.0, lr_batch_size=16, warmup_epochs=1.0, warmup_start_lr=0.4),
        epochs=10.0,
        batch_size=16,
        group_size=8,
        dropout=0.0,
        checkpoint=CheckpointConfig(every=200),
    )


def ava_paper(base: AvaConfig) -> AvaConfig:
    """The defaults: 8 × 8 clips, 20 epochs of 64, rate .1, a tenth of it at epochs 10 and 15, warm-up of 5."""
    return replace(base, preset="ava")


AVA_RECIPES: dict[str, Callable[[AvaConfig], AvaConfig]] = {"ava": ava_paper, "small": ava_small}


def check_ava(config: AvaConfig, world_size: int) -> None:
    """Refuse what cannot work before anything expensive starts.

    Raises:
        ConfigError: naming the options and the way out.
    """
    check_training(config, world_size)
    data = config.data
    if sum(place is not None for place in (data.videos, data.frames, data.store)) != 1:
        raise ConfigError("Pass one of --videos FOLDER, --frames FOLDER with --frame-lists, and --store STORE.")
    if data.videos is None and data.frames_fps != AvaDataConfig.frames_fps:
        raise ConfigError(
            f"--frames-fps {data.frames_fps:g} is of folders of pictures among --videos; those of --frames are 30 a "
            "second, and a store knows its own. Leave it out."
        )
    if (data.frames is None) == bool(data.frame_lists):
        raise ConfigError("--frames and --frame-lists go together: pass a folder, and the lists of its files.")
    if not (data.train_boxes or data.train_predicted_boxes) or data.test_truth is None or data.classes is None:
        raise ConfigError(
            "Pass --train-boxes, --test-truth and --classes: AVA's CSVs of boxes and its list of classes."
        )
    if config.compile:
        raise ConfigError(
            "--compile does not go with ava, whose number of boxes changes from clip to clip: leave it out."
        )
    if data.num_actions < 1 or min(config.num_frames, config.stride, config.crop_size, config.short_side) < 1:
        raise ConfigError("--num-actions, --num-frames, --stride, --crop-size and --short-side must be at least 1.")
    if not 0 <= config.flip <= 1 or not 0 <= data.min_score <= 1:
        raise ConfigError("--flip and --min-score: give shares from 0 to 1.")
