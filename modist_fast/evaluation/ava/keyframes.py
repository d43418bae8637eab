"""AVA's keyframes as clips: where they are in a video, how they are cut, and where their boxes then lie."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy

from modist_fast.errors import ConfigError
from modist_fast.evaluation.ava.annotations import Boxes, Keyframe
from modist_fast.evaluation.data.labelled import LabelledVideos
from modist_fast.evaluation.data.views import ViewSpec, plan_training_clip
from modist_pipelines.plan import ClipPlan, PlanConfig
from modist_pipelines.source import ClipSource, VideoInfo
from modist_pipelines.video.suffixes import MEDIA_SUFFIXES

SECONDS = range(902, 1799)
"""Of a movie, that have annotations."""


@dataclass(frozen=True)
class Keyframes:
    """Keyframes of some boxes, each with its place in the source.

    Attributes:
        videos: a "video" for each keyframe, as the code of fine-tuning takes them.
        keyframes: their names, in the same order.
        boxes: of each.
        centers: (N,) int64 grid frames.
        odd: keyframes of videos that the source does not have, to the reason.
    """

    videos: LabelledVideos
    keyframes: list[Keyframe]
    boxes: list[Boxes]
    centers: np.ndarray
    odd: dict[Keyframe, str]

    def __len__(self) -> int:
        return len(self.keyframes)


def find_keyframes(
    source: ClipSource, boxes: Mapping[Keyframe, Boxes], start_second: float, refused: Mapping[str, str]
) -> Keyframes:
    """Place the keyframes of some boxes; those outside of seconds 902 to 1798 are left out, as AVA leaves them out.

    Args:
        start_second: of the movie, at which the videos of the source begin.
        refused: videos that cannot be used, to the reason.

    Raises:
        ConfigError: no keyframe is there, or one lies between the source's frames.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(source.videos):
        if rows.setdefault(name_of(name), row) != row:
            raise ConfigError(
                f"{source.path} has two videos that are called {name_of(name)} in AVA's lists: {name} … "
                "Rename or remove one."
            )
    reasons = {name_of(name): reason for name, reason in refused.items()}
    found, odd = [], {}
    for keyframe in boxes:
        video, second = keyframe
        if second not in SECONDS:
            continue
        if video not in rows:
            odd[keyframe] = reasons.get(video, f"not in {source.path}")
            continue
        center = (second - start_second) * source.fps / source.grid
        last = source.info(rows[video]).num_frames - 1
        if center != round(center):
            raise ConfigError(
                f"second {second} of {video} lies between the frames that are stored: every {source.grid}th of "
                f"{source.fps:g} a second, from second {start_second:g} on. Prepare with --grid 2 or 1."
            )
        if not 0 <= center <= last:
            odd[keyframe] = f"second {second} lies outside of the video, if that begins at second {start_second:g}"
            continue
        found.append((keyframe, rows[video], round(center)))
    if not found:
        example = next(iter(odd.items()), None)
        raise ConfigError(
            f"{source.path} has none of the {len(boxes)} keyframes of the boxes between seconds {SECONDS[0]} and "
            f"{SECONDS[-1]}"
            + (f", such as {example[0][0]} {example[0][1]}: {example[1]}." if example else ".")
            + " Give the videos that the boxes are of, and look at --start-second."
        )
    keyframes = [keyframe for keyframe, _, _ in found]
    videos = LabelledVideos(
        source=source,
        names=[f"{video} {second}" for video, second in keyframes],
        rows=np.array([row for _, row, _ in found], dtype=np.int64),
        labels=np.zeros(len(found), dtype=np.int64),
        classes=[""],
        columns={},
        groups=None,
    )
    centers = np.array([center for _, _, center in found], dtype=np.int64)
    return Keyframes(videos, keyframes, [boxes[keyframe] for keyframe in keyframes], centers, odd)


def name_of(video: str) -> str:
    """The name that AVA's lists have for a file: without folders and the suffix of a container."""
    path = Path(video)
    return path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name


def clip_frames(spec: ViewSpec, info: VideoInfo, grid: int, center: int) -> np.ndarray:
    """(num_frames,) int64 grid frames: range(c - 32, c + 32, 8) of 30 a second for 8 × 8; at the ends the last repeats.

    Args:
        center: the keyframe.
    """
    step = spec.stride // grid
    half = spec.num_frames * step // 2
    return np.clip(center - half + np.arange(spec.num_frames) * step, 0, info.num_frames - 1)


def plan_training_keyframe(
    spec: ViewSpec, info: VideoInfo, grid: int, center: int, *, seed: int, epoch: int, item: int, flip: float
) -> ClipPlan:
    """A clip about a keyframe, cut as `plan_training_clip` cuts: short side 256 … 320 for a crop of 224, a flip."""
    drawn = plan_training_clip(spec, info, grid, seed=seed, epoch=epoch, video=item, flip=flip)
    return drawn._replace(frames=clip_frames(spec, info, grid, center))


def plan_whole_keyframe(spec: ViewSpec, info: VideoInfo, grid: int, center: int) -> ClipPlan:
    """A clip about a keyframe that shows the whole frame."""
    return ClipPlan(clip_frames(spec, info, grid, center), (0, 0, info.height, info.width))


def whole_shape(short_side: int, info: VideoInfo) -> tuple[int, int]:
    """Height and width of the whole frame with its short side at `short_side` pixels; the long one rounded down."""
    if info.width < info.height:
        return math.floor(short_side * info.height / info.width), short_side
    return short_side, math.floor(short_side * info.width / info.height)


def shaped(spec: ViewSpec, grid: int, shape: tuple[int, int]) -> PlanConfig:
    """What a decoder of clips of another shape than the training crop's is built from."""
    height, width = shape
    return replace(spec.plan_config(grid), crop_size=height, crop_width=width)


def boxes_in_clip(places: np.ndarray, info: VideoInfo, plan: ClipPlan, shape: Sequence[int]) -> Tensor:
    """Boxes in pixels of the clip that a plan cuts out of the frame, clipped to it.

    A flip mirrors them about the middle of the clip; PySlowFast's are then a pixel further left.

    Args:
        places: (n, 4) shares of the frame.
        shape: height and width of the clip.

    Returns:
        (n, 4) float32.
    """
    top, left, height, width = plan.crop
    scale = np.array([shape[1] / width, shape[0] / height] * 2)
    corners = (places * ([info.width, info.height] * 2) - ([left, top] * 2)) * scale
    if plan.flip:
        corners[:, [0, 2]] = shape[1] - corners[:, [2, 0]]
    corners = np.clip(corners, 0, [shape[1], shape[0]] * 2)
    return from_numpy(corners.astype(np.float32))


def without(boxes: Mapping[Keyframe, Boxes], excluded: Iterable[Keyframe]) -> dict[Keyframe, Boxes]:
    """The keyframes that count, and lie where AVA has keyframes."""
    left_out = set(excluded)
    return {key: found for key, found in boxes.items() if key not in left_out and key[1] in SECONDS}
