"""From the frames of a step's clips to tensors, whatever the source gives, on a CPU or a GPU."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.handover import Handed
from modist_pipelines.clips.jpeg_headers import JpegHeaders
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.plan import ClipPlan, PlanConfig

# What stands for a damaged clip, whose sample no loss counts: mid-gray, or no motion.
_BLANK_SIDE = 16
_BLANK_RGB = 115


class DecodedClips(NamedTuple):
    """Some clips of one kind."""

    clips: Handed
    """(N, C, T, H, W) float32, channels_last_3d, a view of the memory that the backend wrote."""
    blank: set[int]
    """Which of them are blank, because their frames could not be read or decoded."""


class ClipDecoder(ABC):
    """Decodes and augments the clips of a step of one kind.

    Args:
        kind: "visual" or "motion".
        config: clip length, crop and augmentation.
        pixels: what the source gives, "jpeg" or "rgb".

    Attributes:
        num_frames: of a clip.
        motion: what motion clips show; None for visual ones.
        num_channels: of a clip.
        num_parts: frames that the source gives for one of a clip: a motion map's channels come one by one.
    """

    def __init__(self, kind: Kind, config: PlanConfig, pixels: Literal["jpeg", "rgb"]) -> None:
        self.kind: Kind = kind
        self.config = config
        self.pixels: Literal["jpeg", "rgb"] = pixels
        self.num_frames = (config.visual if kind == "visual" else config.motion).num_frames
        self.motion = config.shown_motion if kind == "motion" else None
        self.num_channels = self.motion.channels if self.motion is not None else 3
        self.num_parts = self.motion.channels if self.motion is not None else 1
        self._headers = JpegHeaders()

    def decode(self, clips: Sequence[PlannedClip]) -> DecodedClips:
        """Decode and augment."""
        blank = {index for index, clip in enumerate(clips) if not self._may_run(clip)}
        chosen = [self._blank() if index in blank else clip for index, clip in enumerate(clips)]
        try:
            return DecodedClips(self._decode(chosen), blank)
        except RuntimeError:
            found = {index for index, clip in enumerate(chosen) if not self._decodes(clip)}
            if not found:  # then it is not a frame's fault
                raise
            chosen = [self._blank() if index in found else clip for index, clip in enumerate(chosen)]
            return DecodedClips(self._decode(chosen), blank | found)

    def _decode(self, clips: Sequence[PlannedClip]) -> Handed:
        frames = [frame for clip in clips for frame in clip.frames or ()]
        pixels, ready = self.run(frames, [clip.plan for clip in clips])
        return Handed(pixels.unflatten(0, (len(clips), -1)).permute(0, 4, 1, 2, 3), ready)

    @abstractmethod
    def run(self, frames: Sequence[np.ndarray], plans: Sequence[ClipPlan]) -> Handed:
        """(frames, H, W, C) float32 of the frames of some clips, one clip after the other; `num_parts` given for each.

        Raises:
            RuntimeError: one of the frames does not decode.
        """

    def close(self) -> None:
        """Let threads go."""
        return

    def _may_run(self, clip: PlannedClip) -> bool:
        if clip.frames is None:
            return False
        return self.pixels != "jpeg" or all(map(self._headers.is_whole, clip.frames))

    def _decodes(self, clip: PlannedClip) -> bool:
        try:
            self._decode([clip])
        except RuntimeError:
            return False
        return True

    def _blank(self) -> PlannedClip:
        import cv2  # for damage alone

        channels, value = (1, self.motion.zero) if self.motion is not None else (3, _BLANK_RGB)
        pixels = np.full((_BLANK_SIDE, _BLANK_SIDE, channels), value, np.uint8)
        plan = ClipPlan(np.zeros(self.num_frames, np.int64), crop=(0, 0, _BLANK_SIDE, _BLANK_SIDE))
        frame = cv2.imencode(".jpg", pixels)[1].ravel() if self.pixels == "jpeg" else pixels
        return PlannedClip(plan, [frame] * (self.num_frames * self.num_parts))


class JpegRows:
    """JPEGs as one array, in the same memory every step: it costs a graph a thirtieth of what a list of arrays does.

    What follows a JPEG in its row is behind its end marker, where no decoder looks.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, jpegs: Sequence[np.ndarray]) -> np.ndarray:
        """(N, longest) uint8, valid until the next call."""
        width = max(map(len, jpegs))
        if len(self._memory) < len(jpegs) * width:
            self._memory = np.empty(len(jpegs) * width * 5 // 4, np.uint8)
        rows = self._memory[: len(jpegs) * width].reshape(len(jpegs), width)
        for row, jpeg in zip(rows, jpegs, strict=True):
            row[: len(jpeg)] = jpeg
        return rows


def feed_and_run(graph: Any, inputs: dict[str, Any]) -> Any:
    """One run of a graph with a single output. The inputs are kept until it is over: a CPU reads them in place."""
    for name, rows in inputs.items():
        graph.feed_input(name, rows)
    (output,) = graph.run()
    return output
