"""The clips that a Grad-CAM is drawn on: RGB frames, and the motion maps of the very same pixels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modist_fast.evaluation.data.views import ViewSpec, plan_views
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.errors import DamagedError
from modist_pipelines.motion_inputs import DEFAULT, find_motion_input
from modist_pipelines.plan import ClipPlan
from modist_pipelines.store.reader import Store


@dataclass(frozen=True)
class PairedClip:
    """The same frames and the same crop, seen both ways."""

    visual: Tensor
    """(3, T, S, S) float32, normalized RGB."""
    motion: Tensor
    """(T, S, S) float32: how much each pixel moves, a share of the motion maps' full scale."""


class PairedClips:
    """Reads clips of the middle of a store's frames, on the CPU.

    Args:
        spec: clip length, stride and crop, as the classifier's views have them.
        motion_input: the motion map to read beside the frames.

    Raises:
        DataError: there is no such motion input, the store lacks it, or its grid does not divide the stride.
    """

    def __init__(self, store: Store, spec: ViewSpec, motion_input: str = DEFAULT) -> None:
        self._motion = find_motion_input(motion_input, "--motion-input")
        store.check_motion(motion_input)
        self._store = store
        self._spec = replace(spec, temporal=1, spatial=1)
        config = self._spec.plan_config(store.grid)
        config = replace(config, motion=config.visual, motion_input=motion_input)
        self._reader = ClipReader(store, config, torch.device("cpu"), kinds=("visual", "motion"))

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

    def read(self, asked: Iterable[tuple[int, ClipPlan]]) -> Iterator[PairedClip]:
        """Clips, each of a video and a plan, in the order asked.

        Raises:
            DamagedError: a frame of one cannot be had.
        """
        for _, clips in self._reader.read(Request(video, video, [plan]) for video, plan in asked):
            if isinstance(clips, str):
                raise DamagedError(clips)
            strength = self._motion.strength(clips["motion"][0].numpy())
            yield PairedClip(clips["visual"][0], torch.from_numpy(strength))

    def close(self) -> None:
        self._reader.close()
