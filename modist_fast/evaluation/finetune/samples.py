"""The clips that a classifier is trained on: which videos a step takes, how they are cut, and the thread that reads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modist_fast.evaluation.data.labelled import LabelledVideos
from modist_fast.evaluation.data.views import ViewSpec, plan_training_clip
from modist_fast.evaluation.finetune.config import TrainingAugmentation
from modist_pipelines.clips.ahead import Producer
from modist_pipelines.clips.handover import work_on
from modist_pipelines.clips.reader import ClipReader, Clips, Request
from modist_pipelines.plan import ClipPlan, augmented_clip, video_order

_PREFETCH = 2  # steps


class Members(NamedTuple):
    """The samples of a step, over all processes."""

    epochs: np.ndarray
    """(B,) int64: the pass over the videos that a sample belongs to; it tells the draws of one video apart."""
    videos: np.ndarray
    """(B,) int64 places in the labelled videos."""


class SampleOrder:
    """Which videos each step takes: passes over all of them, each in its own order, one after the other.

    A batch may reach into the next pass. So every video is seen equally often, and a handful of videos, as in low-shot
    training, can be fewer than a batch. What a step takes is a pure function of (seed, step).

    Attributes:
        num_steps: of the whole run.
    """

    def __init__(self, videos: np.ndarray, *, batch_size: int, epochs: float, seed: int) -> None:
        self._videos, self._batch_size, self._seed = videos, batch_size, seed
        self.num_steps = max(1, math.ceil(epochs * len(videos) / batch_size))

    def epoch_at(self, step: int) -> float:
        """How many passes over the videos come before a step."""
        return step * self._batch_size / len(self._videos)

    def members(self, step: int) -> Members:
        first, count = step * self._batch_size, len(self._videos)
        places = np.arange(first, first + self._batch_size)
        epochs = places // count
        orders = {epoch: video_order(self._seed, epoch, count) for epoch in np.unique(epochs).tolist()}
        chosen = [orders[epoch][place % count] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
        return Members(epochs, self._videos[chosen])


class TrainingBatch(NamedTuple):
    """This process's part of a step."""

    step: int
    clips: Tensor
    """(b, 3, T, H, W) float32; gray where a video is damaged."""
    labels: Tensor
    """(b,) int64 on the host; -1 where a video is damaged, which then does not count."""
    damaged: dict[int, str]
    """Videos to the reason."""


class TrainingClips:
    """Makes the batches of one process, a few steps ahead.

    Args:
        labelled: the videos.
        spec: clip length, sampling and crop.
        augmentation: how clips are cut.
        order: which videos a step takes.
        rank, world_size: which part of each step is this process's.
        device: where the clips shall lie.
    """

    def __init__(
        self,
        labelled: LabelledVideos,
        spec: ViewSpec,
        augmentation: TrainingAugmentation,
        order: SampleOrder,
        *,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device,
        num_threads: int = 0,
    ) -> None:
        self._labelled, self._spec, self._augmentation, self._order = labelled, spec, augmentation, order
        self._seed, self._rank, self._world_size, self._device = seed, rank, world_size, device
        self._num_threads = num_threads
        plain = spec.plan_config(labelled.source.grid)
        self._config = replace(
            plain,
            augmentation=replace(
                plain.augmentation,
                crop_area=augmentation.crop_area,
                crop_aspect=augmentation.crop_aspect,
                flip=augmentation.flip,
                color=augmentation.color,
                color_strength=augmentation.color_strength,
                gray=augmentation.gray,
                blur=0.0,
            ),
        )

    def plan(self, epoch: int, video: int) -> ClipPlan:
        """The clip of a video in a pass: a pure function."""
        info, seed = self._labelled.info(video), self._seed
        flip = self._augmentation.flip
        grid = self._labelled.source.grid
        clip = plan_training_clip(self._spec, info, grid, seed=seed, epoch=epoch, video=video, flip=flip)
        if self._augmentation.crop == "scaled":
            return clip
        random = np.random.default_rng([seed, epoch, video, 1])
        augmented = augmented_clip(self._config, random, info, clip.frames)
        return augmented._replace(crop=clip.crop) if self._spec.fit == "squash" else augmented

    def iterate(self, start_step: int, end_step: int) -> Iterator[TrainingBatch]:
        """Yield steps `start_step` to `end_step` - 1. A step's clips do not depend on where the iteration began.

        Raises:
            DataError: the source as a whole cannot be read.
        """
        with ClipReader(self._labelled.source, self._config, self._device, self._num_threads) as reader:
            answers = reader.read(self._requests(start_step, end_step))
            producer = Producer(
                range(start_step, end_step),
                lambda step: _Step(step, self._mine(step)),
                lambda step, _: self._collect(step, answers),
                _PREFETCH,
                lambda: work_on(self._device),
            )
            try:
                for _ in range(start_step, end_step):
                    yield producer.next()
            finally:
                producer.stop()

    def _mine(self, step: int) -> list[tuple[int, int]]:
        """Epoch and video of this process's samples."""
        epochs, videos = self._order.members(step)
        share = len(videos) // self._world_size
        mine = slice(self._rank * share, (self._rank + 1) * share)
        return list(zip(epochs[mine].tolist(), videos[mine].tolist(), strict=True))

    def _requests(self, start_step: int, end_step: int) -> Iterator[Request]:
        rows = self._labelled.rows
        for step in range(start_step, end_step):
            for epoch, video in self._mine(step):
                yield Request(video, int(rows[video]), [self.plan(epoch, video)])

    def _collect(self, step: "_Step", answers: Iterator[tuple[int, Clips | str]]) -> TrainingBatch:
        spec = self._spec
        clips = torch.zeros(
            (len(step.samples), 3, spec.num_frames, spec.crop_size, spec.crop_size), device=self._device
        ).contiguous(memory_format=torch.channels_last_3d)
        labels = torch.full((len(step.samples),), -1)
        damaged: dict[int, str] = {}
        for place, (_, video) in enumerate(step.samples):
            _, found = next(answers)
            if isinstance(found, str):
                damaged[video] = found
                continue
            clips[place] = found["visual"][0]
            labels[place] = int(self._labelled.labels[video])
        return TrainingBatch(step.step, clips, labels, damaged)


@dataclass(frozen=True)
class _Step:
    step: int
    samples: Sequence[tuple[int, int]]

    def cancel(self) -> None:
        """Nothing runs yet: reading is begun by whoever collects."""
