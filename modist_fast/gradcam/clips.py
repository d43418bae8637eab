"""The clips that a Grad-CAM is drawn on: RGB frames, and the motion maps of the very same pixels."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clip_reads import PlannedClip
from modist_pipelines.decoders import build_decoder
from modist_pipelines.errors import DamagedError
from modist_pipelines.graph import Kind
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig
from modist_pipelines.store import Store


@dataclass(frozen=True)
class PairedClip:
    """The same frames and the same crop, seen both ways."""

    visual: Tensor
    """(3, T, S, S) float32, normalized RGB."""
    edges: Tensor
    """(T, S, S) float32, a share of the motion maps' full scale."""


class PairedClips:
    """Reads clips of the central square of a store's videos.

    Args:
        clip: frames and stride, in nominal frames; the store's grid must divide the stride.
        crop_size: pixels of the square that the net sees.
        mean, std: of the normalization that the backbone was trained with.
        motion_input: the motion map to read beside the frames.

    Raises:
        DataError: the store lacks the motion input, or its grid does not divide the stride.
    """

    def __init__(
        self, store: Store, clip: ClipSpec, crop_size: int, mean: float, std: float, motion_input: str = "edges"
    ) -> None:
        store.check_motion(motion_input)
        self._store, self._motion_input = store, motion_input
        config = PlanConfig(
            visual=clip,
            motion=clip,
            crop_size=crop_size,
            grid=store.grid,
            augmentation=Augmentation(mean=mean, std=std),
        )
        self.step = clip.stride // store.grid
        self._offsets = config.steps(clip)
        self._decoders = {
            kind: build_decoder(kind, config, store.pixels, num_clips=1, num_threads=1, device=torch.device("cpu"))
            for kind in cast(tuple[Kind, ...], ("visual", "motion"))
        }

    def middle(self, video: int) -> np.ndarray:
        """(T,) grid frames of the clip in the middle of a video."""
        return self._clamped(video, max(0, (int(self._store.num_frames[video]) - 1 - int(self._offsets[-1])) // 2))

    def covering(self, video: int) -> list[np.ndarray]:
        """(T,) grid frames each: clips that hold every frame of a video, neighbours interleaved."""
        num_frames, span = int(self._store.num_frames[video]), len(self._offsets) * self.step
        starts = [*range(0, max(1, num_frames - span + 1), span)]
        if starts[-1] + span < num_frames:
            starts.append(num_frames - span)
        return [self._clamped(video, start + phase) for start in starts for phase in range(self.step)]

    def read(self, video: int, frames: np.ndarray) -> PairedClip:
        """Decode a clip.

        Raises:
            DamagedError: one of its frames cannot be had.
        """
        height, width = int(self._store.height[video]), int(self._store.width[video])
        side = min(height, width)
        plan = ClipPlan(frames, crop=((height - side) // 2, (width - side) // 2, side, side))
        tensors = []
        for kind, name in (("visual", "rgb"), ("motion", self._motion_input)):
            jpegs = self._store.read_frames(video, name, frames)
            clips, blank = self._decoders[cast(Kind, kind)].decode([PlannedClip(plan, jpegs)])
            if blank:
                raise DamagedError(f"{self._store.videos[video]}: a {name} frame of {frames.tolist()} does not decode.")
            tensors.append(clips[0].clone())
        return PairedClip(tensors[0], tensors[1][0])

    def close(self) -> None:
        for decoder in self._decoders.values():
            decoder.close()

    def _clamped(self, video: int, start: int) -> np.ndarray:
        return np.minimum(start + self._offsets, int(self._store.num_frames[video]) - 1)
