"""Handing frames to a graph, whatever the source gives."""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clip_reads import PlannedClip
from modist_pipelines.graph import Kind, clip_graph, graph_inputs
from modist_pipelines.plan import ClipPlan, PlanConfig

# What stands for a damaged clip, whose sample no loss counts: mid-gray, or no motion.
_BLANK_SIDE = 16
_BLANK = {"visual": 115, "motion": 0}


class ClipDecoder:
    """One graph: the clips of a step of one kind in, a tensor out.

    Args:
        kind: "visual" or "motion".
        config: clip length, crop and augmentation.
        pixels: what the source gives, "jpeg" or "rgb".
        num_clips: clips a step.

    Attributes:
        num_frames: of a clip.
    """

    def __init__(
        self,
        kind: Kind,
        config: PlanConfig,
        pixels: Literal["jpeg", "rgb"],
        *,
        num_clips: int,
        num_threads: int,
        device: torch.device,
    ) -> None:
        self._kind: Kind = kind
        self._config = config
        self._pixels: Literal["jpeg", "rgb"] = pixels
        self.num_frames = (config.visual if kind == "visual" else config.motion).num_frames
        on_gpu = device.type == "cuda"
        self.graph: Any = clip_graph(
            kind,
            crop_size=config.crop_size,
            device="gpu" if on_gpu else "cpu",
            batch_size=num_clips * self.num_frames,
            num_threads=num_threads,
            device_id=(device.index or 0) if on_gpu else None,
            pixels=pixels,
        )
        self.graph.build()
        self._device = device
        self._memory = np.empty(0, np.uint8)

    def decode(self, clips: Sequence[PlannedClip]) -> tuple[Tensor, set[int]]:
        """Decode and augment.

        Returns:
            (N, C, T, H, W) float32, channels_last_3d, a view of the graph's own memory; and which of the clips are
            blank, because their frames could not be read or decoded.
        """
        blank = {index for index, clip in enumerate(clips) if clip.frames is None}
        chosen = [self._blank() if index in blank else clip for index, clip in enumerate(clips)]
        try:
            return self._run(chosen), blank
        except RuntimeError:
            found = {index for index, clip in enumerate(chosen) if not self._decodes(clip)}
            if not found:  # then it is not a frame's fault
                raise
            chosen = [self._blank() if index in found else clip for index, clip in enumerate(chosen)]
            return self._run(chosen), blank | found

    def _run(self, clips: Sequence[PlannedClip]) -> Tensor:
        plans = [clip.plan for clip in clips]
        frames = [frame for clip in clips for frame in clip.frames or ()]
        # Kept until the run is over: a CPU graph reads them in place.
        inputs: dict[str, Any] = {"frame": self._rows(frames) if self._pixels == "jpeg" else self._placed(frames)}
        inputs |= graph_inputs(self._kind, plans, self._config.augmentation, self._pixels)
        for name, rows in inputs.items():
            self.graph.feed_input(name, rows)
        (output,) = self.graph.run()
        tensor = torch.from_dlpack(output.as_tensor())
        if tensor.is_cuda:
            # A copy on torch's own stream and memory, so that its allocator knows when the clip is no longer in use.
            tensor = tensor.clone()
        return tensor.unflatten(0, (len(plans), -1)).permute(0, 4, 1, 2, 3)

    def _rows(self, jpegs: Sequence[np.ndarray]) -> np.ndarray:
        """(N, longest) uint8, in the same memory every step.

        One array costs the graph a thirtieth of what a list of arrays does. What follows a JPEG in its row is behind
        its end marker, where no decoder looks.
        """
        width = max(map(len, jpegs))
        if len(self._memory) < len(jpegs) * width:
            self._memory = np.empty(len(jpegs) * width * 5 // 4, np.uint8)
        rows = self._memory[: len(jpegs) * width].reshape(len(jpegs), width)
        for row, jpeg in zip(rows, jpegs, strict=True):
            row[: len(jpeg)] = jpeg
        return rows

    def _placed(self, frames: Sequence[np.ndarray | Tensor]) -> list[np.ndarray | Tensor]:
        """Frames on the graph's device; those that a GPU's engine decoded lie there already."""
        if self._device.type == "cpu":
            return list(frames)
        return [torch.as_tensor(frame).to(self._device, non_blocking=True) for frame in frames]

    def _decodes(self, clip: PlannedClip) -> bool:
        try:
            self._run([clip])
        except RuntimeError:
            return False
        return True

    def _blank(self) -> PlannedClip:
        side, value = _BLANK_SIDE, _BLANK[self._kind]
        pixels = np.full((side, side, 3 if self._kind == "visual" else 1), value, np.uint8)
        plan = ClipPlan(np.zeros(self.num_frames, np.int64), crop=(0, 0, side, side))
        frame = cv2.imencode(".jpg", pixels)[1].ravel() if self._pixels == "jpeg" else pixels
        return PlannedClip(plan, [frame] * self.num_frames)
