"""Views: which clips of a video are shown to a network, as pure numbers that a decoder takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from modist_fast.errors import ConfigError
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig
from modist_pipelines.ranges import COUNT, ranged
from modist_pipelines.source import VideoInfo

_SINGLE_SCALE = 8 / 7  # short side over crop where there is one crop: 256 / 224 in PySlowFast
_LARGEST_SCALE = 10 / 7  # in training, 320 / 224


@dataclass(frozen=True)
class ViewsConfig:
    """The views of a video at test (paper section 4.1: 10 × 3). None means: as the backbone's card says."""

    temporal: int = ranged(10, COUNT)
    """Clips at equal distances; a single one is in the middle."""
    spatial: Literal[1, 3] = 3
    """Crops: one, or both ends and the middle of the long side."""
    temporal_rule: Literal["ends", "paper"] = "ends"
    """ends: from the first possible start to the last; paper: from the first on in steps of a tenth of the way (of
    10 views), so that the last view ends before the video does (the authors' code)."""
    single_crop: Literal["middle", "left"] = "middle"
    """Where the one crop is: left is the start of the long side, the top of an upright video."""
    fit: Literal["crop", "squash"] = "crop"
    """squash: no crops, the whole frame is brought to a square, so that its shape is lost."""
    sampling: Literal["dense", "segments"] = "dense"
    """dense: `stride` frames apart; segments: one frame from each of num_frames equal parts of the video (TSN), as the
    recipe for Something-Something v2 does. There is then one clip a video."""
    num_frames: int | None = ranged(None, COUNT)
    """Frames of a clip; left out, as the backbone was trained."""
    stride: int | None = ranged(None, COUNT)
    """Nominal frames (30 a second) from one frame to the next."""
    crop_size: int | None = ranged(None, COUNT)
    """Pixels of the network's input."""
    test_crop_size: int | None = ranged(None, COUNT)
    """The same at test, by default crop_size (the paper: 256 after training on 224)."""
    pooling: Literal["global", "sliding"] = "global"
    """At test, of a crop that is larger than in training. sliding: averages over windows of the size that training
    saw, one at each place (7 × 7 of 8 × 8 for 256 after 224); the places' softmax is averaged (the authors' code)."""
    short_side: int | None = ranged(None, COUNT)
    """Pixels to which the frame's short side is scaled before a square is cut for the test. By default the crop's size
    with three crops, 8/7 of it with one (256 for 224), as in PySlowFast."""


@dataclass(frozen=True)
class ViewSpec:
    """`ViewsConfig` with all numbers known."""

    temporal: int
    temporal_rule: Literal["ends", "paper"]
    spatial: int
    single_crop: Literal["middle", "left"]
    fit: Literal["crop", "squash"]
    sampling: Literal["dense", "segments"]
    num_frames: int
    stride: int
    crop_size: int
    test_crop_size: int
    pooling: Literal["global", "sliding"]
    short_side: int
    mean: float
    std: float
    window: float = 1.0
    """Share of a feature map's height and width that is averaged; see `features_at_places`."""

    @property
    def num_views(self) -> int:
        return self.temporal * self.spatial

    def at_test(self) -> "ViewSpec":
        """With the crop of the test, and the window that goes with it."""
        window = self.crop_size / self.test_crop_size if self.pooling == "sliding" else 1.0
        return replace(self, crop_size=self.test_crop_size, window=window)

    def plan_config(self, grid: int) -> PlanConfig:
        """What a decoder of these clips is built from.

        Raises:
            DataError: the grid does not divide the stride.
        """
        clip = ClipSpec(self.num_frames, self.stride if self.sampling == "dense" else grid)
        normalization = Augmentation(mean=self.mean, std=self.std)
        return PlanConfig(clip, ClipSpec(1, grid), self.crop_size, grid, augmentation=normalization, motion_input=None)


def resolve_views(config: ViewsConfig, card: Mapping[str, Any]) -> ViewSpec:
    """Fill in what the options leave to the backbone's card.

    Raises:
        ConfigError: a value is neither given nor in the card, or they do not fit.
    """

    def value(name: str, default: int | None = None) -> int:
        given = getattr(config, name)
        found = card.get(name, default) if given is None else given
        if not isinstance(found, int) or found < 1:
            option = f"--views.{name.replace('_', '-')}"
            raise ConfigError(f"{option} {found}: needs a whole number from 1, and the backbone's card gives none.")
        return found

    crop_size = value("crop_size")
    test_crop_size = value("test_crop_size", crop_size)
    spatial = 1 if config.fit == "squash" else config.spatial
    short_side = config.short_side or (test_crop_size if spatial == 3 else round(_SINGLE_SCALE * test_crop_size))
    if short_side < test_crop_size:
        raise ConfigError(
            f"--views.short-side {short_side} is less than the crop of {test_crop_size} pixels. Raise it to that."
        )
    if config.pooling == "sliding" and test_crop_size <= crop_size:
        raise ConfigError(
            f"--views.pooling sliding needs a --views.test-crop-size above the {crop_size} pixels of training: else "
            "there is one place."
        )
    if config.single_crop == "left" and (spatial == 3 or config.fit == "squash"):
        raise ConfigError("--views.single-crop left is about one crop: pass --views.spatial 1 and --views.fit crop.")
    if config.temporal < 1:
        raise ConfigError(f"--views.temporal {config.temporal}: a video needs at least one view.")
    return ViewSpec(
        temporal=1 if config.sampling == "segments" else config.temporal,
        temporal_rule=config.temporal_rule,
        spatial=spatial,
        single_crop=config.single_crop,
        fit=config.fit,
        sampling=config.sampling,
        num_frames=value("num_frames"),
        stride=value("stride"),
        crop_size=crop_size,
        test_crop_size=test_crop_size,
        pooling=config.pooling,
        short_side=short_side,
        mean=_same_for_all_channels(card, "mean", 0.45),
        std=_same_for_all_channels(card, "std", 0.225),
    )


def _same_for_all_channels(card: Mapping[str, Any], name: str, default: float) -> float:
    found = card.get(name, default)
    values = set(found) if isinstance(found, list | tuple) else {found}
    if len(values) != 1:
        raise ConfigError(
            f"the backbone's card has {name} {found}; only one value for all channels is supported. "
            "Convert the weights by modist convert."
        )
    return float(values.pop())


def plan_views(spec: ViewSpec, info: VideoInfo, grid: int) -> list[ClipPlan]:
    """The views of a video at test: for each start in time, each crop."""
    crops = _test_crops(spec, info)
    return [ClipPlan(frames, crop) for frames in _test_frames(spec, info, grid) for crop in crops]


def _test_frames(spec: ViewSpec, info: VideoInfo, grid: int) -> list[np.ndarray]:
    if spec.sampling == "segments":
        edges = _segment_edges(spec, info)
        return [(edges[:-1] + edges[1:]) // 2]
    steps, free = _steps(spec, info, grid)
    if spec.temporal == 1:
        starts = [free // 2]
    else:
        parts = spec.temporal - (spec.temporal_rule == "ends")
        starts = [round(free * view / parts) for view in range(spec.temporal)]
    return [np.minimum(start + steps, info.num_frames - 1) for start in starts]


def _steps(spec: ViewSpec, info: VideoInfo, grid: int) -> tuple[np.ndarray, int]:
    """Grid frames of a clip that starts at 0, and the last possible start. A short video's last frame repeats."""
    steps = np.arange(spec.num_frames) * (spec.stride // grid)
    return steps, max(0, info.num_frames - 1 - int(steps[-1]))


def _segment_edges(spec: ViewSpec, info: VideoInfo) -> np.ndarray:
    """(num_frames + 1,) int64 grid frames: segment i is from edge i to edge i + 1, both included (PySlowFast)."""
    return np.round(np.arange(spec.num_frames + 1) * ((info.num_frames - 1) / spec.num_frames)).astype(np.int64)


def _test_crops(spec: ViewSpec, info: VideoInfo) -> list[tuple[float, float, float, float]]:
    """Squares of the stored frame that are test_crop_size wide once the short side is at `short_side` pixels."""
    if spec.fit == "squash":
        return [(0, 0, info.height, info.width)]
    side = _side(spec.test_crop_size / spec.short_side, info)
    top, left = (info.height - side) // 2, (info.width - side) // 2
    if spec.spatial == 1 and spec.single_crop == "middle":
        return [(top, left, side, side)]
    if spec.spatial == 1:
        return [(top, 0, side, side) if info.width >= info.height else (0, left, side, side)]
    if info.width >= info.height:
        return [(top, x, side, side) for x in (0, left, info.width - side)]
    return [(y, left, side, side) for y in (0, top, info.height - side)]


def _side(share: float, info: VideoInfo) -> int:
    return max(1, round(share * min(info.width, info.height)))


def plan_training_clip(
    spec: ViewSpec, info: VideoInfo, grid: int, *, seed: int, epoch: int, video: int, flip: float = 0.5
) -> ClipPlan:
    """A clip as the supervised recipes of PySlowFast draw it: a random start, the short side scaled to 8/7 … 10/7 of
    the crop (256 … 320 for 224), a random square, a flip. With segments, a random frame of each.

    Args:
        seed, epoch, video: the draw depends on nothing else.
        flip: its probability; 0 where left and right differ in meaning (Something-Something v2).
    """
    random = np.random.default_rng([seed, epoch, video])
    time, scale, top, left, mirrored = random.random(5)
    if spec.sampling == "segments":
        edges = _segment_edges(spec, info)
        frames = random.integers(edges[:-1], edges[1:], endpoint=True)
    else:
        steps, free = _steps(spec, info, grid)
        frames = np.minimum(math.floor(time * (free + 1)) + steps, info.num_frames - 1)
    if spec.fit == "squash":
        crop = (0, 0, info.height, info.width)
    else:
        side = _side(1 / (_SINGLE_SCALE + scale * (_LARGEST_SCALE - _SINGLE_SCALE)), info)
        y, x = math.floor(top * (info.height - side + 1)), math.floor(left * (info.width - side + 1))
        crop = (y, x, side, side)
    return ClipPlan(frames, crop, flip=bool(mirrored < flip))
