"""The clips that a Grad-CAM is drawn on: RGB frames, and the motion maps of the very same pixels."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modist_fast.evaluation.data.views import ViewSpec, plan_views
from modist_pipelines.clips.backends import build_decoder
from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipPlan
from modist_pipelines.store.reader import Store


@dataclass(frozen=True)
class PairedClip:
    """The same frames and the same crop, seen both ways."""

    visual: Tensor
    """(3, T, S, S) float32, normalized RGB."""
    edges: Tensor
    """(T, S, S) float32, a share of the motion maps' full scale."""


class PairedClips:
    """Reads clips of the middle of a store's frames, on the CPU.

    Args:
        spec: clip length, stride and crop, as the classifier's views have them.
        motion_input: the motion map to read beside the frames.

    Raises:
        DataError: the store lacks the motion input, or its grid does not divide the stride.
    """

    def __init__(self, store: Store, spec: ViewSpec, motion_input: str = "edges", num_threads: int = 1) -> None:
        store.check_motion(motion_input)
        self._store, self._motion_input = store, motion_input
        self._spec = replace(spec, temporal=1, spatial=1)
        config = self._spec.plan_config(store.grid)
        config = replace(config, motion=config.visual)
        kinds: tuple[Kind, Kind] = ("visual", "motion")
        self._decoders = {
            kind: build_decoder(
                kind, config, store.pixels, num_clips=1, num_threads=num_threads, device=torch.device("cpu")
            )
            for kind in kinds
        }

    def middle(self, video: int) -> ClipPlan:
        """The clip in the middle of a video.

        Args:
            video: row of the store.
        """
        (plan,) = plan_views(self._spec, self._store.info(video), self._store.grid)
        return plan

    def covering(self, video: int) -> list[ClipPlan]:
        """Clips that together hold every frame of a video, neighbours interleaved."""
        plan, num_frames = self.middle(video), int(self._store.num_frames[video])
        step, length = self._spec.stride // self._store.grid, self._spec.num_frames
        starts = list(range(0, max(1, num_frames - step * length + 1), step * length))
        if starts[-1] + step * length < num_frames:
            starts.append(num_frames - step * length)
        steps = np.arange(length) * step
        return [
            plan._replace(frames=np.minimum(start + phase + steps, num_frames - 1))
            for start in starts
            for phase in range(step)
        ]

    def read(self, video: int, plan: ClipPlan) -> PairedClip:
        """Decode a clip.

        Raises:
            DamagedError: one of its frames cannot be had.
        """
        tensors = []
        for kind, name in (("visual", "rgb"), ("motion", self._motion_input)):
            jpegs = self._store.read_frames(video, name, plan.frames)
            clips, blank = self._decoders[kind].decode([PlannedClip(plan, jpegs)])
            if blank:
                raise DamagedError(f"{self._store.videos[video]}: a {name} frame of it does not decode.")
            tensors.append(clips.receive()[0].clone())
        return PairedClip(tensors[0], tensors[1][0])

    def close(self) -> None:
        for decoder in self._decoders.values():
            decoder.close()
