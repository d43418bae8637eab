"""Training the action detector: clips about keyframes, their boxes, and the loss of a group."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modist_fast.evaluation.ava.detector import Detector
from modist_fast.evaluation.ava.keyframes import Keyframes, boxes_in_clip, plan_training_keyframe
from modist_fast.evaluation.data.views import ViewSpec
from modist_fast.evaluation.finetune.config import LabelledTrainingConfig, TrainingAugmentation
from modist_fast.evaluation.finetune.samples import SampleOrder, TrainingBatch, TrainingClips
from modist_fast.evaluation.finetune.training import LabelledStep
from modist_fast.host.distributed import World
from modist_pipelines.plan import ClipPlan


class KeyframeClips(TrainingClips):
    """`TrainingClips` about keyframes, and the boxes that go with them."""

    def __init__(self, keyframes: Keyframes, spec: ViewSpec, flip: float, order: SampleOrder, **more: Any) -> None:
        super().__init__(keyframes.videos, spec, TrainingAugmentation(crop="scaled", flip=flip), order, **more)
        self._keyframes = keyframes

    def plan(self, epoch: int, video: int) -> ClipPlan:
        """The clip of a keyframe in a pass: a pure function."""
        videos = self._keyframes.videos
        return plan_training_keyframe(
            self._spec,
            videos.info(video),
            videos.source.grid,
            int(self._keyframes.centers[video]),
            seed=self._seed,
            epoch=epoch,
            item=video,
            flip=self._augmentation.flip,
        )

    def targets(self, step: int) -> list[tuple[Tensor, np.ndarray]]:
        """Of each of this process's samples of a step: (n, 4) float32 pixels of its clip, and (n, K) bool actions."""
        size = self._spec.crop_size
        return [
            (
                boxes_in_clip(
                    self._keyframes.boxes[item].places,
                    self._keyframes.videos.info(item),
                    self.plan(epoch, item),
                    (size, size),
                ),
                self._keyframes.boxes[item].actions,
            )
            for epoch, item in self._mine(step)
        ]


class DetectorStep(LabelledStep):
    """Any number of actions for each box: binary cross-entropy, its mean over the boxes of a group and the actions.

    Args:
        targets: `KeyframeClips.targets`.
    """

    model: Detector

    def __init__(
        self,
        config: LabelledTrainingConfig,
        world: World,
        model: Detector,
        targets: Callable[[int], list[tuple[Tensor, np.ndarray]]],
    ) -> None:
        super().__init__(config, world, model)
        self._targets = targets

    def forward(self, clips: Tensor, boxes: list[Tensor], parallel: bool = False) -> Tensor:
        """(Σ n_b, K) float32 logits of the clips' boxes."""
        return self._call(parallel, clips, boxes)

    def pass_through(self, clips: Tensor) -> Tensor:
        with self._autocast():
            return self.model.backbone.feature_map(clips.contiguous(memory_format=torch.channels_last_3d))

    def group_loss(self, batch: TrainingBatch, group: slice) -> tuple[Tensor, Tensor]:
        is_whole = (batch.labels[group] >= 0).tolist()
        targets = self._targets(batch.step)[group]
        # A damaged clip has no boxes, and so no part in the loss.
        kept = [
            found if whole else (found[0][:0], found[1][:0]) for found, whole in zip(targets, is_whole, strict=True)
        ]
        wanted = torch.from_numpy(np.concatenate([actions for _, actions in kept])).to(self.world.device).float()
        logits = self.forward(batch.clips[group], [boxes for boxes, _ in kept], parallel=True)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(1, wanted.numel())
        num_whole = float(sum(is_whole))
        figures = torch.stack([loss.detach() * num_whole, loss.new_zeros(()), loss.new_tensor(num_whole)])
        return loss * len(is_whole) / len(batch.labels), figures
