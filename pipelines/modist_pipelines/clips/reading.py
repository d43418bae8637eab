"""Planning and reading the clips that one process needs of one video in one step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from modist_pipelines.clips.graph import Kind
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipPlan, PlanConfig, plan_clips
from modist_pipelines.source import ClipSource, Reading


@dataclass(frozen=True)
class PlannedClip:
    """A clip and its frames as the source gave them, (num_bytes,) JPEGs or (H, W, C) pixels; None where damaged."""

    plan: ClipPlan
    frames: list[np.ndarray] | None


@dataclass
class VideoClips:
    """What one video adds to a step of one process: its query clips, its key clips, or both."""

    halves: dict[bool, dict[Kind, PlannedClip]] = field(default_factory=dict)
    """Whether key, to the clips of either pathway."""
    frames_decoded: int = 0
    bytes_read: int = 0
    bytes_needed: int = 0
    plan_seconds: float = 0.0
    read_seconds: float = 0.0
    damage: list[str] = field(default_factory=list)
    """Messages, one a damaged clip."""


def read_clips(
    source: ClipSource, config: PlanConfig, seed: int, epoch: int, video: int, halves: Sequence[bool]
) -> VideoClips:
    """Plan the clips of a video and read them, each frame once however many clips share it.

    Whether a clip is damaged depends on that clip's own frames, so it comes out the same however the clips of a step
    are dealt to processes.

    Args:
        halves: False for the query clips, True for the key clips.
    """
    clips = VideoClips()
    started = time.perf_counter()
    info = source.info(video)
    plans: dict[tuple[bool, Kind], ClipPlan] = {}
    for key in halves:
        visual, motion = plan_clips(config, seed, epoch, video, info, key=key)
        plans[key, "visual"] = visual
        if motion is not None:
            plans[key, "motion"] = motion
    planned = time.perf_counter()
    frames = _read(source, config, video, plans, clips)
    for (key, kind), plan in plans.items():
        clips.halves.setdefault(key, {})[kind] = PlannedClip(plan, frames.get((key, kind)))
    clips.plan_seconds = planned - started
    clips.read_seconds = time.perf_counter() - planned
    return clips


def _read(
    source: ClipSource,
    config: PlanConfig,
    video: int,
    plans: Mapping[tuple[bool, Kind], ClipPlan],
    clips: VideoClips,
) -> dict[tuple[bool, Kind], list[np.ndarray]]:
    """Frames of each clip; where one is damaged, each clip is read by itself and the damaged ones left out."""
    try:
        return _read_together(source, config, video, plans, clips)
    except DamagedError as error:
        if len(plans) == 1:
            clips.damage.append(str(error))
            return {}
    frames = {}
    for name, plan in plans.items():
        frames |= _read(source, config, video, {name: plan}, clips)
    return frames


def _read_together(
    source: ClipSource,
    config: PlanConfig,
    video: int,
    plans: Mapping[tuple[bool, Kind], ClipPlan],
    clips: VideoClips,
) -> dict[tuple[bool, Kind], list[np.ndarray]]:
    asked: dict[str, set[int]] = {}
    named: dict[tuple[bool, Kind], tuple[str, list[int]]] = {}
    for (key, kind), plan in plans.items():
        name = "rgb" if kind == "visual" else config.motion_input
        assert name is not None
        named[key, kind] = name, plan.frames.tolist()
        asked.setdefault(name, set()).update(named[key, kind][1])
    wanted = {name: sorted(frames) for name, frames in asked.items()}
    reading: Reading = source.read(video, wanted)
    clips.frames_decoded += reading.frames_decoded
    clips.bytes_read += reading.bytes_read
    clips.bytes_needed += reading.bytes_needed
    found = {name: dict(zip(frames, reading.frames[name], strict=True)) for name, frames in wanted.items()}
    return {clip: [found[name][frame] for frame in frames] for clip, (name, frames) in named.items()}
