"""Training a net as a whole with labels: the step over groups of samples, its lines, the statistics at the end."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from modist_fast.batch_norm import agree_on_statistics, has_batch_norm, set_precise_statistics
from modist_fast.errors import ConfigError
from modist_fast.evaluation.finetune.classifier import Classifier, LabelledNet, seed_dropout
from modist_fast.evaluation.finetune.config import LabelledTrainingConfig
from modist_fast.evaluation.finetune.samples import SampleOrder, TrainingBatch, TrainingClips
from modist_fast.evaluation.finetune.schedule import supervised_learning_rate
from modist_fast.groups import GroupedStep
from modist_fast.host.distributed import World
from modist_fast.loop import TrainingLoop
from modist_fast.run import checkpoint
from modist_fast.watch.gradients import GradientCheck
from modist_fast.watch.late import LateLines
from modist_fast.watch.run_log import RunLog
from modist_pipelines.progress import Progressing

log = logging.getLogger("modist")


class LabelledStep(GroupedStep, ABC):
    """The net, the optimizer, and how a batch changes them, a group in a pass."""

    model: LabelledNet

    def __init__(self, config: LabelledTrainingConfig, world: World, model: LabelledNet) -> None:
        self.config, self.model = config, model
        super().__init__(config, world, model, model, model.training_parts(), config.optim.as_sgd())

    @abstractmethod
    def group_loss(self, batch: TrainingBatch, group: slice) -> tuple[Tensor, Tensor]:
        """Forward of one group.

        Args:
            group: its samples of this process's part of the batch.

        Returns:
            The loss whose sum over all groups of all processes, divided by their number of processes, is learned from;
            and (3,) float32 without gradient: sum of losses, number of right answers, number of samples.
        """

    @abstractmethod
    def pass_through(self, clips: Tensor) -> object:
        """Forward of clips alone, for the sake of the statistics."""

    def _call(self, parallel: bool, clips: Tensor, *more: object) -> Tensor:
        with self._autocast():
            net = self._learner if parallel else self.model
            return net(clips.contiguous(memory_format=torch.channels_last_3d), *more)

    def __call__(self, batch: TrainingBatch, learning_rate: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Change the weights.

        Returns:
            (3,) float32 on the device: this rank's sum of losses, number of right answers, number of samples; and
            the figures of the gradients.
        """
        size = self.config.group_size
        num_groups = len(batch.labels) // size
        figures = torch.zeros(3, device=self.world.device)
        self.model.train()
        self._statistics.begin()
        for index in range(num_groups):
            with self._without_message(index):
                seed_dropout(self.config.seed, batch.step, self.world.rank * num_groups + index)
                loss, found = self.group_loss(batch, slice(index * size, (index + 1) * size))
                self._statistics.after_pass()
                self.scaler.scale(loss).backward()
            figures += found
        return figures, self._update_weights(learning_rate, self.gradients.figures())


class ClassifierStep(LabelledStep):
    """A class for each clip: cross-entropy."""

    model: Classifier

    def forward(self, clips: Tensor, parallel: bool = False) -> Tensor:
        """(B, K) float32 logits."""
        return self._call(parallel, clips)

    def pass_through(self, clips: Tensor) -> Tensor:
        return self.forward(clips)

    def at_places(self, clips: Tensor, window: float) -> Tensor:
        """(B, P, K) float32 logits; see `features_at_places`."""
        with self._autocast():
            return self.model.at_places(clips.contiguous(memory_format=torch.channels_last_3d), window)

    def group_loss(self, batch: TrainingBatch, group: slice) -> tuple[Tensor, Tensor]:
        wanted = batch.labels[group].to(self.world.device, non_blocking=True)
        logits = self.forward(batch.clips[group], parallel=True)
        loss = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum")
        with torch.no_grad():
            right = (logits.argmax(dim=1) == wanted).sum()
            figures = torch.stack([loss.detach(), right.float(), (wanted >= 0).sum().float()])
        # Over all samples of the batch, damaged ones too: then no rank need know of another's.
        return loss / len(batch.labels), figures


class _Lines(LateLines[dict[str, Any]]):
    """Lines of fine-tuning, and what is shown of them."""

    def __init__(
        self,
        batch_size: int,
        progress: Progressing,
        run_log: RunLog | None,
        check: GradientCheck,
        has_top1: bool = True,
    ) -> None:
        super().__init__(check, run_log)
        self._has_top1 = has_top1
        self._batch_size, self._progress = batch_size, progress
        self._clock = time.perf_counter()

    def push(self, row: dict[str, Any], figures: Tensor, checked: dict[str, Tensor], stop: bool) -> None:
        """Take in the row and the figures of the step just launched, and write the line of the one before."""
        means = torch.stack(list(checked.values())) / dist.get_world_size()
        summed = torch.cat([figures, torch.full_like(figures[:1], float(stop)), means])
        dist.all_reduce(summed)
        now = time.perf_counter()
        row["seconds"], self._clock = now - self._clock, now
        self._follow(row, ["losses", "right", "count", "stop", *checked], summed)

    def _row(self, launched: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
        count = found["count"]
        top1 = {"top1": found["right"] / max(1.0, count)} if self._has_top1 else {}
        return launched | {
            "loss": found["losses"] / max(1.0, count),
            **top1,
            "samples_per_s": self._batch_size / launched["seconds"],
            "damaged": self._batch_size - round(count),
        }

    def _write(self, row: dict[str, Any], launched: dict[str, Any]) -> None:
        if self._log is None:  # not rank 0
            return
        self._log.write(row)
        top1 = f"  top-1 {100 * row['top1']:.0f} %" if self._has_top1 else ""
        more = f"  epoch {row['epoch']:.1f}  {row['samples_per_s']:.1f} samples/s"
        self._progress.at(row["step"], f"loss {row['loss']:.3f}{top1}", more)


@dataclass(frozen=True)
class Trained:
    """What training leaves."""

    step: LabelledStep
    damaged: dict[int, str]
    """Training videos that could not be read, to the reason; of this rank, and this attempt."""
    steps: int


class LabelledTraining(TrainingLoop[LabelledTrainingConfig]):
    """One process's part of the training of one net with labels.

    Args:
        config: checked by `check_training`.
        step: a classifier's or a detector's.
        order: which videos each step takes.
        clips: makes the batches.
        out: the run directory of this net.
        fingerprint: of the videos and the backbone that it begins with; a resumed run must have the same.
        has_top1: whether its answers are right or wrong.
    """

    step: LabelledStep

    def __init__(
        self,
        config: LabelledTrainingConfig,
        world: World,
        step: LabelledStep,
        order: SampleOrder,
        clips: TrainingClips,
        out: Path,
        fingerprint: str,
        has_top1: bool = True,
    ) -> None:
        super().__init__(config, world, out)
        self.order, self.clips, self._fingerprint = order, clips, fingerprint
        self._has_top1 = has_top1
        self.step = step
        self.last_step = min(order.num_steps, config.max_steps or order.num_steps)
        self._damaged: dict[int, str] = {}

    def run(self) -> Trained:
        """Train to the last step and set precise batch-norm statistics.

        Raises:
            Interrupted: a signal came first; the state is saved.
        """
        self._resume(
            {"fingerprint": lambda: self._fingerprint},
            "videos, labels or parts of them, or from another backbone. Use those it began with",
        )
        if self.world.is_main:
            self._write_json("config.json", checkpoint.plain_config(self.config))
        progress = Progressing("step", self.last_step, shown=self.world.is_main, done=self.steps_done)
        with self._run_log() as run_log, self._stopped_by_signals(), progress:
            self._loop(_Lines(self.config.batch_size, progress, run_log, self.step.gradients, self._has_top1))
        self._end()
        self._finish_statistics()
        return Trained(self.step, self._damaged, self.steps_done)

    def _loop(self, lines: _Lines) -> None:
        config = self.config

        def take(batch: TrainingBatch) -> None:
            epoch = self.order.epoch_at(batch.step)
            rate = supervised_learning_rate(config.optim, epoch, config.epochs, config.batch_size)
            figures, checked = self.step(batch, rate)
            self._note(batch.damaged)
            lines.push({"step": batch.step + 1, "epoch": epoch, "lr": rate}, figures, checked, self._stop_requested)

        self._take_steps(lambda: self.clips.iterate(self.steps_done, self.last_step), take, lines)
        self._save()

    def _finish_statistics(self) -> None:
        """Precise batch norm, on the training clips of the steps that would come next."""
        config, first = self.config, self.order.num_steps
        num_steps = math.ceil(config.precise_bn_clips / config.batch_size)
        if not has_batch_norm(self.step.model):
            self._say("the net has no batch norm: --precise-bn-clips has nothing to set")
            return
        if not num_steps:
            self._agree()
            return
        self.step.model.train()
        with Progressing("statistics of batch norm", num_steps, "batches", self.world.is_main) as progress:

            def groups() -> Iterator[Tensor]:
                for batch in self.clips.iterate(first, first + num_steps):
                    progress.begin()
                    yield from batch.clips[batch.labels >= 0].split(config.group_size)

            num_clips = set_precise_statistics(self.step.model, groups(), self.step.pass_through)
        if num_clips is None:
            raise ConfigError("--precise-bn-clips: no clip could be read. Look at the log, or pass 0 to go without.")
        self._say(f"batch norm has the statistics of {num_clips * self.world.size} clips")

    def _note(self, damaged: dict[int, str]) -> None:
        for video, reason in damaged.items():
            if video not in self._damaged:
                log.warning("damaged, and left out of training: %s", reason)
        self._damaged |= damaged

    def _memory_options(self) -> str:
        config = self.config
        return (
            f"--group-size {config.group_size} or --views.crop-size, or share the batch among more devices "
            "(--nproc-per-node)"
        )

    def _agree(self) -> None:
        agree_on_statistics(self.step.model.training_parts())

    def _own_state(self) -> dict[str, Any]:
        return {"fingerprint": self._fingerprint}
