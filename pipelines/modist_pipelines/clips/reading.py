"""Reading planned clips; planning and reading those that one process needs of one video in one step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from modist_pipelines.clips.graph import Kind
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipPlan, PlanConfig, partner_of, plan_clips
from modist_pipelines.source import ClipSource, Reading

Name = TypeVar("Name")


@dataclass(frozen=True)
class PlannedClip:
    """A clip and its frames as the source gave them, (num_bytes,) JPEGs or (H, W, C) pixels; None where damaged. Of a
    motion map, each channel comes by itself."""

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
    other = video
    if config.motion_control == "another-video":
        other = partner_of(seed, source.num_videos, video)
    plans: dict[int, dict[tuple[bool, Kind], ClipPlan]] = {video: {}, other: {}}
    infos = {owner: source.info(owner) for owner in plans}
    for key in halves:
        visual, motion = plan_clips(config, seed, epoch, video, infos[video], key=key)
        if other != video:
            _, motion = plan_clips(config, seed, epoch, other, infos[other], key=key)
        plans[video][key, "visual"] = visual
        if motion is not None:
            plans[other][key, "motion"] = motion
    clips.plan_seconds = time.perf_counter() - started
    for owner, planned in plans.items():
        for (key, kind), clip in _read(source, config, owner, planned, clips).items():
            clips.halves.setdefault(key, {})[kind] = clip
    return clips


def _read(
    source: ClipSource, config: PlanConfig, video: int, plans: Mapping[tuple[bool, Kind], ClipPlan], clips: VideoClips
) -> dict[tuple[bool, Kind], PlannedClip]:
    """Where a frame is damaged, each clip is read by itself and the damaged ones stay without frames."""
    try:
        read, reading = read_planned(source, config, video, plans)
    except DamagedError as error:
        if len(plans) > 1:
            parts = [_read(source, config, video, {name: plan}, clips) for name, plan in plans.items()]
            return {name: clip for part in parts for name, clip in part.items()}
        clips.damage.append(str(error))
        return {name: PlannedClip(plan, None) for name, plan in plans.items()}
    clips.frames_decoded += reading.frames_decoded
    clips.bytes_read += reading.bytes_read
    clips.bytes_needed += reading.bytes_needed
    return read


def read_planned(
    source: ClipSource, config: PlanConfig, video: int, plans: Mapping[tuple[Name, Kind], ClipPlan]
) -> tuple[dict[tuple[Name, Kind], PlannedClip], Reading]:
    """Read planned clips of a video, each frame once however many clips share it.

    Args:
        config: whose motion input the motion clips show.
        plans: the caller's name of a clip, and its kind, to its plan.

    Returns:
        The clips, in the order of the plans, and what reading them took.

    Raises:
        DamagedError: a frame cannot be had.
    """
    shown: dict[Kind, str] = {"visual": "rgb", "motion": config.motion_input or ""}
    asked: dict[str, set[int]] = {}
    for (_, kind), plan in plans.items():
        asked.setdefault(shown[kind], set()).update(plan.frames.tolist())
    wanted = {name: sorted(frames) for name, frames in asked.items()}
    reading = source.read(video, wanted)
    found = {name: reading.by_frame(name, frames) for name, frames in wanted.items()}

    def planned(kind: Kind, plan: ClipPlan) -> PlannedClip:
        return PlannedClip(plan, [part for frame in plan.frames.tolist() for part in found[shown[kind]][frame]])

    return {clip: planned(clip[1], plan) for clip, plan in plans.items()}, reading
