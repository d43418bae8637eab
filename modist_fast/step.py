"""The training step of MoDist (paper section 3.1): what happens to one batch of clips."""

import logging
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from modist_fast.batch_norm import StepStatistics
from modist_fast.config import TrainConfig
from modist_fast.host.distributed import World, gather_keys, leave_out
from modist_fast.host.precision import resolve_precision
from modist_fast.host.torch_names import buffers_stay
from modist_fast.objective import TERMS, LossTerms, motion_distillation_loss
from modist_fast.optim import build_optimizer
from modist_fast.pathways import MoDist
from modist_fast.watch.health import bank_health, retrieval, spread, uniformity
from modist_fast.watch.spans import Spans, clock_of
from modist_pipelines.clips.loader import ClipBatch

log = logging.getLogger("modist")


class TrainingStep:
    """The nets, the banks, the optimizer, and how a batch changes them.

    Batch norm, gradients and losses are computed over groups of `group_size` samples, one group after another;
    W processes share the groups of a batch, so that any W computes the same function.

    Args:
        config: checked by `config.check`.
        world: from `join_world`.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        self.config, self.world = config, world
        self.spans = Spans(clock_of(world.device))
        self.dtype, reason = resolve_precision(config.precision, world.device)
        if world.is_main:
            log.info("precision %s", reason)
        torch.manual_seed(config.seed)
        self.model = MoDist(config.model, config.objective)
        self.model.to(world.device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        num_groups = config.batch_size // (config.group_size * world.size)
        self._query_statistics = StepStatistics(self.model.online, num_groups)
        self._key_statistics = StepStatistics(self.model.momentum, num_groups)
        if config.compile:
            self.model.online.compile()
            self.model.momentum.compile()
        self.optimizer = build_optimizer(self.model.online, config.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self.online = DistributedDataParallel(
            self.model.online,
            **buffers_stay(),
            gradient_as_bucket_view=True,
            # DDP learns a static graph from its first backward, which must not be one without synchronization.
            static_graph=num_groups == 1,
        )
        self.online.register_comm_hook(self.spans, _average_gradients)

    def __call__(self, batch: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
        """Momentum update, keys, queries, loss, gradients, weights, banks; in this order.

        Returns:
            Named () float32 figures of this rank, still on the device.
        """
        spans, device = self.spans, self.world.device
        with spans("copy"):
            video_ids = torch.from_numpy(batch.video_ids).to(device, non_blocking=True)
            damaged = torch.from_numpy(batch.damaged).to(device, non_blocking=True)
            deal = torch.from_numpy(batch.deal).to(device, non_blocking=True)
        with spans("gather"):
            video_ids = leave_out(video_ids, damaged)
        with spans("momentum"):
            self.model.update_momentum(self.config.objective.key_momentum)
        with spans("keys"):
            local_keys = self._embed_keys(batch)
        with spans("gather"):
            keys = gather_keys(local_keys, deal)
        with self._query_statistics.step() as after_pass:
            figures = self._accumulate_gradients(batch, keys, video_ids, after_pass)
        with spans("optimizer"):
            self._update_weights(learning_rate)
        with spans("log"):
            figures |= spread(keys) | uniformity(keys) | bank_health(self.model.bank, video_ids)
            figures["videos_damaged"] = (video_ids < 0).sum().float()
        with spans("enqueue"):
            self.model.bank.enqueue(keys, video_ids)
        return figures

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def _embed_keys(self, batch: ClipBatch) -> Tensor:
        """(M, b, C) keys of the clips that this rank was dealt, normalized group by group."""
        with self._autocast(), self._key_statistics.step() as after_pass:
            keys = []
            for visual, motion in self._groups(batch.visual_key, batch.motion_key):
                keys.append(self.model.momentum(visual, motion))
                after_pass()
            return torch.cat(keys, dim=1)

    def _groups(self, visual: Tensor, motion: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        visuals = visual.split(self.config.group_size)
        motions = motion.split(self.config.group_size) if motion is not None else [None] * len(visuals)
        return list(zip(visuals, motions, strict=True))

    def _accumulate_gradients(
        self, batch: ClipBatch, keys: Tensor, video_ids: Tensor, after_pass: Callable[[], None]
    ) -> dict[str, Tensor]:
        """Queries, loss and backward of each group in turn; the banks stay as they are until the step is over."""
        groups = self._groups(batch.visual_query, batch.motion_query)
        size = self.config.group_size
        first = self.world.rank * len(batch.visual_query)
        figures = []
        for index, (visual, motion) in enumerate(groups):
            # Gradients travel once a step, with the last group.
            with nullcontext() if index == len(groups) - 1 else self.online.no_sync():
                with self.spans("queries"), self._autocast():
                    queries = self.online(visual, motion)
                    after_pass()
                mine = slice(first + index * size, first + (index + 1) * size)
                with self.spans("loss"):
                    terms = motion_distillation_loss(
                        queries, keys[:, mine], self.model.bank, video_ids[mine], self.config.objective
                    )
                with self.spans("backward"):
                    self.scaler.scale(terms.loss / len(groups)).backward()
            with self.spans("log"):
                figures.append(_figures(terms) | retrieval(queries.detach(), keys, mine.start))
        return {name: torch.stack([group[name] for group in figures]).mean() for name in figures[0]}

    def _update_weights(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=False)  # the gradients are views of DDP's buckets


def _average_gradients(spans: Spans, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's communication hook: its usual average. Once the last bucket is off, backward only waits for it."""
    spans.rest_is("all_reduce")
    return allreduce_hook(None, bucket)  # pyright: ignore[reportArgumentType], None is the default group


def _figures(terms: LossTerms) -> dict[str, Tensor]:
    named = {"loss": terms.loss.detach()}
    for kind in ("losses", "top1", "positive"):
        values = getattr(terms, kind).unbind()
        named |= {f"{kind.removesuffix('es')}_{term}": value for term, value in zip(TERMS, values, strict=False)}
    return named
