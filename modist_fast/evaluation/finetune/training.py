"""Training a classifier as a whole: the step over groups of samples, the loop around it, an exact resume."""

import json
import logging
import math
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from modist_fast.batch_norm import StepStatistics, agree_on_statistics, set_precise_statistics
from modist_fast.errors import ConfigError
from modist_fast.evaluation.finetune.classifier import Classifier, seed_dropout
from modist_fast.evaluation.finetune.config import FinetuneConfig
from modist_fast.evaluation.finetune.samples import SampleOrder, TrainingBatch, TrainingClips
from modist_fast.evaluation.finetune.schedule import supervised_learning_rate
from modist_fast.host.distributed import World, on_main
from modist_fast.host.precision import resolve_precision
from modist_fast.host.torch_names import buffers_stay
from modist_fast.optim import build_optimizer
from modist_fast.run import checkpoint
from modist_fast.run.beginning import resume
from modist_fast.watch.finite import REMEDY
from modist_fast.watch.metrics import RunLog

log = logging.getLogger("modist")
_LINE_SECONDS = 15.0


class ClassifierStep:
    """The net, the optimizer, and how a batch changes them.

    As in pre-training, batch norm and gradients are computed over groups of `group_size` samples, one after another;
    W processes share the groups of a batch, so that any W computes the same function.
    """

    def __init__(self, config: FinetuneConfig, world: World, model: Classifier) -> None:
        self.config, self.world = config, world
        self.dtype, reason = resolve_precision(config.precision, world.device)
        if world.is_main:
            log.info("precision %s", reason)
        self.model = model
        self.model.to(world.device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        num_groups = config.batch_size // (config.group_size * world.size)
        self._statistics = StepStatistics(self.model.training_parts(), num_groups)
        if config.compile:
            self.model.compile()
        self.optimizer = build_optimizer(self.model, config.optim.as_sgd())
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self._parallel = DistributedDataParallel(
            self.model,
            **buffers_stay(),
            gradient_as_bucket_view=True,
            static_graph=num_groups == 1,
        )

    def forward(self, clips: Tensor, parallel: bool = False) -> Tensor:
        """(B, K) float32 logits."""
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            net = self._parallel if parallel else self.model
            return net(clips.contiguous(memory_format=torch.channels_last_3d))

    def __call__(self, batch: TrainingBatch, learning_rate: float) -> Tensor:
        """Change the weights.

        Returns:
            (3,) float32 on the device: this rank's sum of losses, number of right answers, number of samples.
        """
        size, device = self.config.group_size, self.world.device
        labels = batch.labels.to(device, non_blocking=True)
        groups = list(zip(batch.clips.split(size), labels.split(size), strict=True))
        figures = torch.zeros(3, device=device)
        self.model.train()
        self._statistics.begin()
        for index, (clips, wanted) in enumerate(groups):
            with nullcontext() if index == len(groups) - 1 else self._parallel.no_sync():
                seed_dropout(self.config.seed, batch.step, self.world.rank * len(groups) + index)
                logits = self.forward(clips, parallel=True)
                self._statistics.after_pass()
                loss = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum")
                # Over all samples of the batch, damaged ones too: then no rank need know of another's.
                self.scaler.scale(loss / len(labels)).backward()
            with torch.no_grad():
                right = (logits.argmax(dim=1) == wanted).sum()
                figures += torch.stack([loss.detach(), right.float(), (wanted >= 0).sum().float()])
        self._statistics.end()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=False)  # the gradients are views of DDP's buckets
        return figures


class _Pending(NamedTuple):
    row: dict[str, Any]
    figures: Tensor
    """(4,): sum of losses, right answers, samples, ranks that were told to stop; summed over ranks on the device."""


@dataclass(frozen=True)
class Trained:
    """What training leaves."""

    step: ClassifierStep
    damaged: dict[int, str]
    """Training videos that could not be read, to the reason; of this rank, and this attempt."""
    steps: int


class ClassifierTraining:
    """One process's part of the training of one classifier.

    Args:
        config: checked by `finetune_config.check`.
        model: on the CPU.
        order: which videos each step takes.
        clips: makes the batches.
        out: the run directory of this classifier.
        fingerprint: of the videos and the backbone that it begins with; a resumed run must have the same.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        world: World,
        model: Classifier,
        order: SampleOrder,
        clips: TrainingClips,
        out: Path,
        fingerprint: str,
    ) -> None:
        self.config, self.world, self.out = config, world, out
        self.order, self.clips, self._fingerprint = order, clips, fingerprint
        self.step = ClassifierStep(config, world, model)
        self.last_step = min(order.num_steps, config.max_steps or order.num_steps)
        self.steps_done = 0
        self._damaged: dict[int, str] = {}
        self._stop_requested = self._stop_agreed = False
        self._pending: _Pending | None = None
        self._run_log: RunLog | None = None
        self._said = 0.0

    def run(self) -> Trained | None:
        """Train to the last step and set precise batch-norm statistics; None where SIGTERM came before."""
        self._resume()
        if self.world.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(checkpoint.plain_config(self.config), indent=2)
            (self.out / "config.json").write_text(text + "\n", encoding="utf-8")
            self._run_log = RunLog(self.out, self.steps_done)
        before = signal.signal(signal.SIGTERM, self._request_stop)
        try:
            self._loop()
        finally:
            signal.signal(signal.SIGTERM, before)
            if self._run_log is not None:
                self._run_log.close()
        if self.steps_done < self.last_step:
            self._say(f"stopped by SIGTERM after step {self.steps_done}; go on with --resume auto")
            return None
        self._finish_statistics()
        return Trained(self.step, self._damaged, self.steps_done)

    def _loop(self) -> None:
        config, saved_at = self.config, self.steps_done
        clock = time.perf_counter()
        for batch in self.clips.iterate(self.steps_done, self.last_step):
            epoch = self.order.epoch_at(batch.step)
            rate = supervised_learning_rate(config.optim, epoch, config.epochs, config.batch_size)
            figures = self.step(batch, rate)
            self.steps_done += 1
            self._note(batch.damaged)
            now = time.perf_counter()
            row = {"step": self.steps_done, "epoch": epoch, "lr": rate, "seconds": now - clock}
            clock = now
            self._push(row, figures)
            if self.steps_done % config.checkpoint.every == 0 or self.steps_done == self.last_step:
                self._flush()  # where the loss is not finite, to say so is clearer than to name tensors
                self._save()
                saved_at = self.steps_done
            if self._stop_agreed:
                break
        self._flush()
        if saved_at != self.steps_done:
            self._save()

    def _push(self, row: dict[str, Any], figures: Tensor) -> None:
        """Take in the step just launched, and write the line of the one before: the host never waits for a step."""
        stop = torch.full_like(figures[:1], float(self._stop_requested))
        summed = torch.cat([figures, stop])
        dist.all_reduce(summed)
        self._flush()
        self._pending = _Pending(row, summed)

    def _flush(self) -> None:
        if self._pending is None:
            return
        (row, figures), self._pending = self._pending, None
        losses, right, count, stops = figures.tolist()
        self._stop_agreed = stops > 0
        row |= {"loss": losses / max(1.0, count), "top1": right / max(1.0, count)}
        row |= {"samples_per_s": self.config.batch_size / row["seconds"]}
        row |= {"damaged": self.config.batch_size - round(count)}
        if not math.isfinite(row["loss"]):
            raise ConfigError(
                f"the loss became {row['loss']} at step {row['step']}. No checkpoint holds that step. {REMEDY}"
            )
        if self._run_log is not None:
            self._run_log.write(row)
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS or row["step"] == self.last_step:
            self._said = now
            self._say(
                f"step {row['step']}/{self.last_step}  epoch {row['epoch']:.1f}  loss {row['loss']:.3f}  "
                f"top-1 {100 * row['top1']:.0f} %  {row['samples_per_s']:.1f} samples/s"
            )

    def _finish_statistics(self) -> None:
        """Precise batch norm, on the training clips of the steps that would come next."""
        config, first = self.config, self.order.num_steps
        num_steps = math.ceil(config.precise_bn_clips / config.batch_size)
        if not num_steps:
            agree_on_statistics(self.step.model.training_parts())
            return
        self.step.model.train()
        batches = (
            group
            for batch in self.clips.iterate(first, first + num_steps)
            for group in batch.clips[batch.labels >= 0].split(config.group_size)
        )
        num_clips = set_precise_statistics(self.step.model, batches, self.step.forward)
        if num_clips is None:
            raise ConfigError("--precise-bn-clips: no clip could be read. Look at the log, or pass 0 to go without.")
        self._say(f"batch norm has the statistics of {num_clips * self.world.size} clips")

    def _note(self, damaged: dict[int, str]) -> None:
        for video, reason in damaged.items():
            if video not in self._damaged:
                log.warning("damaged, and left out of training: %s", reason)
        self._damaged |= damaged

    def _save(self) -> None:
        agree_on_statistics(self.step.model.training_parts())
        on_main(self.world, self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        state = {
            "model": self.step.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "fingerprint": self._fingerprint,
        }
        checkpoint.save(self.out, self.steps_done, state, self.config)

    def _resume(self) -> None:
        found = resume(
            self.out,
            self.config,
            self.world,
            ("fingerprint", self._fingerprint),
            "videos, labels or parts of them, or from another backbone. Use those it began with",
        )
        if found is None:
            return
        path, state = found
        self.step.model.load_state_dict(state["model"])
        self.step.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.steps_done = state["step"]
        self._say(f"resumed after step {self.steps_done} from {path}")

    def _request_stop(self, signum: int, frame: object) -> None:
        self._stop_requested = True

    def _say(self, message: str) -> None:
        if self.world.is_main:
            log.info(message)
