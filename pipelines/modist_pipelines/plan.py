"""The plan: which videos, frames, crops and colours, as pure functions of (seed, epoch, video).

Nothing here has a state. So a run goes on exactly from one integer, any number of processes reads the same clips,
and any process can find out for itself what another one reads.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import DEFAULT, MotionInput, find_motion_input
from modist_pipelines.ranges import COUNT, FROM_ZERO, POSITIVE, SHARE, ranged, required
from modist_pipelines.source import SCORE_FULL_SCALE, ClipSource, VideoInfo

MotionRule = Literal["window", "frames"]
MotionControl = Literal["none", "another-video", "any-time"]


@dataclass(frozen=True)
class ClipSpec:
    """A clip's frames and the nominal frames (at the store's fps) from one to the next."""

    num_frames: int = required(COUNT)
    """Frames of a clip."""
    stride: int = required(COUNT)
    """Nominal frames from one to the next."""


@dataclass(frozen=True)
class Augmentation:
    """The RGB augmentation (paper section 4.1; ranges it leaves open as in the authors' released code)."""

    crop_area: tuple[float, float] = ranged((0.3, 1.0), POSITIVE)
    """Share of the frame that a crop covers."""
    crop_aspect: tuple[float, float] = ranged((0.5, 2.0), POSITIVE)
    """Width over height of a crop, drawn log-uniformly."""
    flip: float = ranged(0.5, SHARE)
    """Probability that an RGB clip is mirrored."""
    color: float = ranged(0.8, SHARE)
    """Probability of brightness, contrast and saturation, each by 1 ± `color_strength`."""
    color_strength: float = ranged(0.4, SHARE)
    """How far brightness, contrast and saturation may change: by a factor from 1 - s to 1 + s."""
    gray: float = ranged(0.2, SHARE)
    """Probability that an RGB clip loses its colours."""
    blur: float = ranged(0.5, SHARE)
    """Probability that an RGB clip is blurred."""
    blur_sigma: tuple[float, float] = ranged((0.1, 2.0), POSITIVE)
    """Pixels of the crop."""
    blur_window: int = ranged(0, FROM_ZERO)
    """Taps of the blur's Gaussian, an odd number; 0: three standard deviations on either side. The authors' code
    takes 3, which blurs far less than its sigma says."""
    mean: float = ranged(0.45, FROM_ZERO)
    """Subtracted from RGB, which is a share of full scale."""
    std: float = ranged(0.225, POSITIVE)
    """What RGB is divided by afterwards."""


@dataclass(frozen=True)
class PlanConfig:
    """What a plan follows."""

    visual: ClipSpec
    motion: ClipSpec
    crop_size: int
    grid: int
    """The store's grid: nominal frames from one stored frame to the next."""
    fps: float = 30.0
    """Nominal frames a second."""
    motion_threshold: float = 0.02
    """γ, a share of the motion maps' full scale: only windows whose mean exceeds it; 0 takes any."""
    motion_rule: MotionRule = "window"
    """What must exceed γ: the mean of the window, or each of its frames."""
    shift_seconds: tuple[float, float] = (0.0, math.inf)
    """Least and most seconds between the starts of query and key, of either pathway, as far as the video allows."""
    synchronized: bool = False
    """Start [visual query, motion key] and [visual key, motion query] together (Table 3c)."""
    motion_control: MotionControl = "none"
    """Motion clips that do not show the motion of the RGB clips: a control of experiments. another-video: those of one
    other video, always the same (`partner_of`); any-time: frames from anywhere in the video, in any order."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    motion_input: str | None = DEFAULT
    """None plans RGB clips alone."""
    motion_flip: float = 0.0
    """Probability that a motion clip is mirrored."""
    crop_width: int | None = None
    """Pixels of the width where clips are not squares of crop_size, which is then their height."""

    def __post_init__(self) -> None:
        for name, clip in (("visual", self.visual), ("motion", self.motion)):
            if clip.stride % self.grid:
                raise DataError(
                    f"--clips.{name}.stride {clip.stride} is not a multiple of the store's grid of {self.grid} frames, "
                    f"so its frames are not stored. Use a multiple of {self.grid}, or prepare the store with a --grid "
                    f"that divides {clip.stride}."
                )
        if self.motion_control != "none" and self.motion_input is None:
            raise DataError(
                f"--clips.motion-control {self.motion_control}: this run has no motion pathway. Leave out the "
                "option, or --objective.no-motion."
            )
        if self.motion_control == "another-video" and self.motion_threshold:
            raise DataError(
                "--clips.motion-control another-video: γ chooses windows and videos by the motion of the video itself. "
                f"Set --clips.motion-threshold 0 (here {self.motion_threshold:g})."
            )

    @property
    def shown_motion(self) -> MotionInput:
        """What the motion clips show.

        Raises:
            DataError: there is no such motion input.
        """
        assert self.motion_input is not None
        return find_motion_input(self.motion_input)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a clip."""
        return self.crop_size, self.crop_width or self.crop_size

    @property
    def min_score(self) -> float:
        """γ in the units of the scores, [0, `SCORE_FULL_SCALE`]."""
        return self.motion_threshold * SCORE_FULL_SCALE

    def moving(self, scores: np.ndarray) -> np.ndarray:
        """Whether the motion clip that starts at each possible frame has enough motion; a short video has one.

        Args:
            scores: (..., num_frames)

        Returns:
            (..., max(1, num_frames - span + 1)) bool.
        """
        return self.window_scores(scores) > self.min_score

    def window_scores(self, scores: np.ndarray) -> np.ndarray:
        """What γ is held against, in the scores' units; shapes as for `moving`."""
        span = int(self.steps(self.motion)[-1]) + 1
        return (_means if self.motion_rule == "window" else _least)(_padded(scores, span), span)

    def steps(self, clip: ClipSpec) -> np.ndarray:
        """(T,) grid frames of a clip that starts at 0; read-only."""
        return _steps(clip.num_frames, clip.stride // self.grid)


@cache
def _steps(num_frames: int, step: int) -> np.ndarray:
    steps = np.arange(num_frames) * step
    steps.flags.writeable = False
    return steps


class ClipPlan(NamedTuple):
    """Everything about one clip."""

    frames: np.ndarray
    """(T,) int64 grid frames; where the video is short, its last one repeats."""
    crop: tuple[float, float, float, float]
    """y, x, height, width in pixels of the stored frame."""
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    gray: bool = False
    blur_sigma: float = 0.0
    """Pixels of the crop; 0 is no blur."""


class SamplePlan(NamedTuple):
    """The clips of one video in one epoch."""

    video: int
    visual_query: ClipPlan
    visual_key: ClipPlan
    motion_query: ClipPlan | None
    motion_key: ClipPlan | None


# Streams of random numbers. A stream's numbers do not depend on what the others are used for: switching an
# augmentation off moves no start.
_VISUAL_QUERY, _VISUAL_KEY, _MOTION_QUERY, _MOTION_KEY, _STARTS, _ORDER, _DEAL, _SUBSET, _PARTNERS = range(9)
_CROP_TRIES = 10


class _Philox(threading.local):
    """One generator a thread, set to a new place for every use: making one anew costs four times as much."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def at(self, key: tuple[int, int], counter: tuple[int, int]) -> np.random.Generator:
        words = self._state["state"]
        words["key"][:] = key
        words["counter"][:] = (0, *counter, 0)  # the low word counts the numbers drawn
        self._bits.state = self._state  # its buffer is empty: nothing was ever drawn before the state was taken
        return self._generator


_philox = _Philox()


def _random(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Numbers that depend on nothing but the arguments (Philox, a counter-based generator).

    Valid until this thread asks for another place.
    """
    first, second = (*counter, 0, 0)[:2]
    return _philox.at((seed, stream), (first, second))


def video_order(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """(num_videos,) int64: the order of positions 0, 1, … in an epoch."""
    return _random(seed, _ORDER, epoch).permutation(num_videos)


def deal_keys(seed: int, step: int, batch_size: int) -> np.ndarray:
    """(batch_size,) int64: whose key clips sit at each position of the shuffled batch (ShuffleBN)."""
    return _random(seed, _DEAL, step).permutation(batch_size)


def subset_of(seed: int, num_videos: int, size: int) -> np.ndarray:
    """(size,) int64 rows in ascending order, drawn without replacement."""
    return np.sort(_random(seed, _SUBSET).permutation(num_videos)[:size])


def partner_of(seed: int, num_videos: int, video: int) -> int:
    """The row whose motion clips a video gets where `motion_control` is another-video: never its own, if there are two.

    Raises:
        DataError: there is one video alone.
    """
    if num_videos < 2:
        raise DataError("--clips.motion-control another-video needs two videos or more: leave it out, or add videos.")
    return int(_partners(seed, num_videos)[video])


@lru_cache(maxsize=1)
def _partners(seed: int, num_videos: int) -> np.ndarray:
    """One cycle through all videos."""
    order = _random(seed, _PARTNERS).permutation(num_videos)
    partners = np.empty(num_videos, np.int64)
    partners[order] = np.roll(order, 1)
    return partners


class Eligible(NamedTuple):
    """The videos that a plan can draw from."""

    videos: np.ndarray
    """(n,) int64 rows of the store with at least one motion window above the threshold."""
    num_windows: int
    num_rejected: int
    """Motion windows of the whole store, and those at or below the threshold; 0 where there is none."""


def eligible_videos(source: ClipSource, config: PlanConfig) -> Eligible:
    """Find the videos with enough motion, over the whole store at once.

    Raises:
        DataError: the source lacks the motion input, or a threshold is set and it does not know the scores.
    """
    if config.motion_input is None:
        return Eligible(np.arange(source.num_videos), 0, 0)
    source.check_motion(config.motion_input)
    if not config.motion_threshold:
        return Eligible(np.arange(source.num_videos), 0, 0)
    num_chosen = np.zeros(source.num_videos, np.int64)
    num_windows = 0
    for videos, scores in _by_length(source, config.motion_input):
        moving = config.moving(scores)
        num_chosen[videos] = moving.sum(axis=1)
        num_windows += moving.size
    return Eligible(np.flatnonzero(num_chosen), num_windows, num_windows - int(num_chosen.sum()))


def threshold_that_rejects(source: ClipSource, config: PlanConfig, share: float) -> float:
    """The γ, in four digits, that rejects this share of the motion windows of a source, or a few more.

    Args:
        share: above 0 and below 1.

    Raises:
        DataError: the source lacks the motion input or its scores; or it rejects everything, since as many windows
            have one and the same score.
    """
    assert config.motion_input is not None
    source.check_motion(config.motion_input)
    found = [config.window_scores(scores).ravel() for _, scores in _by_length(source, config.motion_input)]
    scores = np.sort(np.concatenate(found))
    last = scores[max(0, math.ceil(share * len(scores)) - 1)] / SCORE_FULL_SCALE
    digit = 10.0 ** (math.floor(math.log10(last)) - 3) if last > 0 else 1e-6
    threshold = float(f"{math.ceil(last / digit + 1e-6) * digit:.4g}")
    if threshold * SCORE_FULL_SCALE >= scores[-1]:
        raise DataError(
            f"{source.path}: no threshold rejects {share:.0%} of its motion windows and leaves any; their scores go "
            f"from {scores[0]:g} to {scores[-1]:g}. Ask for another share, or name a threshold."
        )
    return threshold


def _by_length(source: ClipSource, motion_input: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n,) rows of videos of one length, and their (n, num_frames) scores.

    These make a rectangle, whose sums come out to the last bit as those of a single video.
    """
    column = source.score_column(motion_input)
    first, lengths = column.starts[:-1].astype(np.int64), np.diff(column.starts)
    for length in np.unique(lengths):
        videos = np.flatnonzero(lengths == length)
        for block in np.array_split(videos, math.ceil(len(videos) * length / _BLOCK)):
            begin, end = int(first[block[0]]), int(first[block[-1]]) + int(length)
            if end - begin == len(block) * length:  # neighbours: nothing is to be collected
                yield block, column.values[begin:end].reshape(len(block), length)
            else:
                yield block, column.values[first[block, None] + np.arange(length)]
            column.forget()


_BLOCK = 1 << 20  # scores looked at together


def _padded(scores: np.ndarray, span: int) -> np.ndarray:
    """At least `span` scores: those of a short video with its last frame repeated."""
    if missing := max(0, span - scores.shape[-1]):
        scores = np.concatenate([scores, np.repeat(scores[..., -1:], missing, axis=-1)], axis=-1)
    return scores


def _least(scores: np.ndarray, span: int) -> np.ndarray:
    """The lowest score of each window; (..., num_frames) to (..., num_frames - span + 1)."""
    return np.lib.stride_tricks.sliding_window_view(scores, span, axis=-1).min(axis=-1)


def _means(scores: np.ndarray, span: int) -> np.ndarray:
    """Mean score of each window, float64; shapes as for `_least`."""
    sums = np.zeros((*scores.shape[:-1], scores.shape[-1] + 1))
    np.cumsum(scores, axis=-1, out=sums[..., 1:])
    return (sums[..., span:] - sums[..., :-span]) / span


def plan_sample(config: PlanConfig, seed: int, epoch: int, video: int, info: VideoInfo) -> SamplePlan:
    """Draw the clips of a video: a pure function, whoever asks.

    Args:
        video: row of the store; `info` is what the store says of it.
    """
    visual_query, motion_query = plan_clips(config, seed, epoch, video, info, key=False)
    visual_key, motion_key = plan_clips(config, seed, epoch, video, info, key=True)
    return SamplePlan(video, visual_query, visual_key, motion_query, motion_key)


def plan_clips(
    config: PlanConfig, seed: int, epoch: int, video: int, info: VideoInfo, *, key: bool
) -> tuple[ClipPlan, ClipPlan | None]:
    """Half of `plan_sample`: the visual and the motion clip of the query, or of the key."""
    visual, motion = config.steps(config.visual), config.steps(config.motion)
    draws = _random(seed, _STARTS, epoch, video).random(4)
    starts = np.arange(max(1, info.num_frames - int(visual[-1])))
    start = _draw_start(config, starts, draws[:2], key)
    motion_clip = None
    if config.motion_input is not None:
        windows = _motion_starts(config, info, int(motion[-1]) + 1)
        motion_starts = [_draw_start(config, windows, draws[2:], of_key) for of_key in (False, True)]
        stream = _MOTION_KEY if key else _MOTION_QUERY
        motion_clip = _motion_clip(config, _random(seed, stream, epoch, video), info, motion_starts[int(key)] + motion)
        if config.synchronized:
            # The visual query starts with the motion key, the visual key with the motion query; a visual clip that
            # spans more than a motion clip may have to start earlier.
            start = min(motion_starts[int(not key)], len(starts) - 1)
    stream = _VISUAL_KEY if key else _VISUAL_QUERY
    return augmented_clip(config, _random(seed, stream, epoch, video), info, start + visual), motion_clip


def _draw_start(config: PlanConfig, starts: np.ndarray, draws: np.ndarray, key: bool) -> int:
    """One of `starts` for the query, or for the key one that is as far from the query's as `shift_seconds` asks.

    Args:
        starts: (n,) grid frames, ascending.
        draws: (2,) in [0, 1), of the query and of the key.
    """
    query = int(starts[int(draws[0] * len(starts))])
    if not key:
        return query
    low, high = config.shift_seconds
    if low > 0 or high < math.inf:
        shifts = np.abs(starts - query) * config.grid / config.fps
        # A video too short for the least shift takes the farthest start that it has.
        far = shifts >= min(low, shifts.max())
        starts = starts[far & (shifts <= max(high, shifts[far].min()))]
    return int(starts[int(draws[1] * len(starts))])


def _motion_starts(config: PlanConfig, info: VideoInfo, span: int) -> np.ndarray:
    """Starts of the windows above the threshold; of any window where it is 0."""
    assert config.motion_input is not None
    if not config.motion_threshold:
        return np.arange(max(1, info.num_frames - span + 1))
    starts = np.flatnonzero(config.moving(info.scores(config.motion_input)))
    if not len(starts):
        raise DataError(
            f"{info.video} has no motion window above --clips.motion-threshold {config.motion_threshold}: it should "
            "have been left out. Choose videos by eligible_videos."
        )
    return starts


def augmented_clip(config: PlanConfig, random: np.random.Generator, info: VideoInfo, frames: np.ndarray) -> ClipPlan:
    """An RGB clip of the given grid frames, with a crop, a flip and colours drawn from `config.augmentation`."""
    options = config.augmentation
    # Every number has its place, used or not.
    crop_draws = random.random(2 * _CROP_TRIES + 2).tolist()
    flip, color, brightness, contrast, saturation, gray, blur, sigma = random.random(8).tolist()
    low, high = options.blur_sigma

    def factor(draw: float) -> float:
        return 1.0 + options.color_strength * (2.0 * draw - 1.0) if color < options.color else 1.0

    return ClipPlan(
        frames=np.minimum(frames, info.num_frames - 1),
        crop=_resized_crop(crop_draws, options, info.height, info.width),
        flip=bool(flip < options.flip),
        brightness=factor(brightness),
        contrast=factor(contrast),
        saturation=factor(saturation),
        gray=bool(gray < options.gray),
        blur_sigma=low + sigma * (high - low) if blur < options.blur else 0.0,
    )


def _resized_crop(
    draws: list[float], options: Augmentation, height: int, width: int
) -> tuple[float, float, float, float]:
    """A crop of random area and aspect; after ten that do not fit, the largest central one (as torchvision does)."""
    low, high = options.crop_area
    first, last = (math.log(aspect) for aspect in options.crop_aspect)
    for area_draw, aspect_draw in zip(draws[:_CROP_TRIES], draws[_CROP_TRIES : 2 * _CROP_TRIES], strict=True):
        area = height * width * (low + area_draw * (high - low))
        aspect = math.exp(first + aspect_draw * (last - first))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y = math.floor(draws[-2] * (height - h + 1))
            x = math.floor(draws[-1] * (width - w + 1))
            return y, x, h, w
    aspect = min(max(width / height, options.crop_aspect[0]), options.crop_aspect[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


_MOTION_CROP = 7 / 8  # of the shorter side: 224 of 256 pixels


def _motion_clip(config: PlanConfig, random: np.random.Generator, info: VideoInfo, frames: np.ndarray) -> ClipPlan:
    """A square somewhere in the frame, and nothing else (paper section 4.1), unless it is to be flipped."""
    side = round(_MOTION_CROP * min(info.height, info.width))
    y, x, flip = random.random(3)
    y, x = math.floor(y * (info.height - side + 1)), math.floor(x * (info.width - side + 1))
    flip = bool(flip < config.motion_flip)
    if config.motion_control == "any-time":
        frames = random.integers(info.num_frames, size=len(frames))
    return ClipPlan(frames=np.minimum(frames, info.num_frames - 1), crop=(y, x, side, side), flip=flip)
