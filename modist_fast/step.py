"""The training step of MoDist (paper section 3.1): what happens to one batch of clips."""

import logging
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from modist_fast.config import TrainConfig
from modist_fast.distributed import World, gather_keys, leave_out
from modist_fast.health import retrieval, spread
from modist_fast.objective import TERMS, LossTerms, motion_distillation_loss
from modist_fast.optim import build_optimizer
from modist_fast.pathways import MoDist, share_statistics
from modist_fast.precision import resolve_precision
from modist_pipelines.loader import ClipBatch
from modist_profiling.spans import Spans

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
        self.spans = Spans()
        self.dtype, reason = resolve_precision(config.precision, world.device)
        if world.is_main:
            log.info("precision %s", reason)
        torch.manual_seed(config.seed)
        self.model = MoDist(config.model, config.objective)
        self.model.to(world.device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        if config.compile:
            self.model.online.compile()
            self.model.momentum.compile()
        self.optimizer = build_optimizer(self.model.online, config.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self.online = DistributedDataParallel(
            self.model.online,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            # DDP learns a static graph from its first backward, which must not be one without synchronization.
            static_graph=config.batch_size == config.group_size * world.size,
        )

    def __call__(self, batch: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
        """Momentum update, keys, queries, loss, gradients, weights, banks; in this order.

        Returns:
            Named () float32 figures of this rank, still on the device.
        """
        spans, device = self.spans, self.world.device
        video_ids = leave_out(
            torch.from_numpy(batch.video_ids).to(device, non_blocking=True),
            torch.from_numpy(batch.damaged).to(device, non_blocking=True),
        )
        deal = torch.from_numpy(batch.deal).to(device, non_blocking=True)
        with spans("momentum"):
            self.model.update_momentum(self.config.objective.key_momentum)
        with spans("keys"):
            local_keys = self._embed_keys(batch)
        with spans("gather"):
            keys = gather_keys(local_keys, deal)
        figures = self._accumulate_gradients(batch, keys, video_ids)
        with spans("optimizer"):
            self._update_weights(learning_rate)
        with spans("enqueue"):
            self.model.bank.enqueue(keys, video_ids)
        return figures | spread(keys) | {"videos_damaged": (video_ids < 0).sum().float()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def _embed_keys(self, batch: ClipBatch) -> Tensor:
        """(M, b, C) keys of the clips that this rank was dealt, normalized group by group."""
        with self._autocast():
            keys = []
            groups = self._groups(batch.visual_key, batch.motion_key)
            for index, (visual, motion) in enumerate(groups):
                share_statistics(self.model.momentum, index, len(groups))
                keys.append(self.model.momentum(visual, motion))
            return torch.cat(keys, dim=1)

    def _groups(self, visual: Tensor, motion: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        visuals = visual.split(self.config.group_size)
        motions = motion.split(self.config.group_size) if motion is not None else [None] * len(visuals)
        return list(zip(visuals, motions, strict=True))

    def _accumulate_gradients(self, batch: ClipBatch, keys: Tensor, video_ids: Tensor) -> dict[str, Tensor]:
        """Queries, loss and backward of each group in turn; the banks stay as they are until the step is over."""
        groups = self._groups(batch.visual_query, batch.motion_query)
        size = self.config.group_size
        first = self.world.rank * len(batch.visual_query)
        figures = []
        for index, (visual, motion) in enumerate(groups):
            # Gradients travel once a step, with the last group.
            with nullcontext() if index == len(groups) - 1 else self.online.no_sync():
                with self.spans("queries"), self._autocast():
                    share_statistics(self.model.online, index, len(groups))
                    queries = self.online(visual, motion)
                mine = slice(first + index * size, first + (index + 1) * size)
                with self.spans("loss"):
                    terms = motion_distillation_loss(
                        queries, keys[:, mine], self.model.bank, video_ids[mine], self.config.objective
                    )
                with self.spans("backward"):
                    self.scaler.scale(terms.loss / len(groups)).backward()
            figures.append(_figures(terms) | retrieval(queries.detach(), keys, mine.start))
        return {name: torch.stack([group[name] for group in figures]).mean() for name in figures[0]}

    def _update_weights(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=False)  # the gradients are views of DDP's buckets


def _figures(terms: LossTerms) -> dict[str, Tensor]:
    named = {"loss": terms.loss.detach()}
    for kind in ("losses", "top1", "positive"):
        values = getattr(terms, kind).unbind()
        named |= {f"{kind.removesuffix('es')}_{term}": value for term, value in zip(TERMS, values, strict=False)}
    return named
