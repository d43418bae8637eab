"""The training step of MoDist (paper section 3.1): what happens to one batch of clips."""

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from modist_fast.batch_norm import StepStatistics, running_statistics
from modist_fast.collectives.averaging import Bfloat16Average
from modist_fast.config import TrainConfig
from modist_fast.groups import GroupedStep, groups_in_a_pass
from modist_fast.host.distributed import KeysOnTheWay, World, least_over_ranks
from modist_fast.models import build_visual
from modist_fast.models.layers import CastWeights
from modist_fast.objective import TERMS, LossTerms, motion_distillation_loss
from modist_fast.pathways import MoDist, Pathways
from modist_fast.replay import Graph, Parts, cuda_graphs
from modist_fast.watch.gradients import GradientCheck
from modist_fast.watch.health import bank_health, retrieval, spread, uniformity
from modist_fast.watch.spans import Spans, clock_of
from modist_fast.watch.undo import LeaveOut
from modist_pipelines.clips.loader import ClipBatch

log = logging.getLogger("modist")
Result = TypeVar("Result")
_Received = Callable[[], tuple[Tensor, Tensor]]  # `KeysOnTheWay.receive`


def check_clips(config: TrainConfig) -> None:
    """Refuse clips that the visual net cannot take, before anything expensive starts.

    Raises:
        ConfigError: with the option and the nearest sizes.
    """
    with torch.device("meta"):
        net = build_visual(config.model.arch, config.model.visual_width)
    net.check_clip(
        config.clips.visual.num_frames, config.clips.crop_size, "--clips.visual.num-frames", "--clips.crop-size"
    )


class _Inputs(NamedTuple):
    """A batch on the device: clips of this rank, and numbers of the whole batch."""

    visual_query: Tensor
    visual_key: Tensor
    motion_query: Tensor | None
    motion_key: Tensor | None
    numbers: Tensor
    """(3, B) int64: video ids, the deal, and whether a sample is damaged."""


class TrainingStep(GroupedStep):
    """The nets, the banks, the optimizer, and how a batch changes them, group by group.

    Args:
        config: checked by `config.check`.
        world: from `join_world`.
        new_graph: makes the graphs of the step's parts, see `Parts`; by default as `config.graphs` says.
    """

    def __init__(self, config: TrainConfig, world: World, new_graph: Callable[[], Graph] | None = None) -> None:
        self.config = config
        self.spans = Spans(clock_of(world.device))
        on_gpu = world.device.type == "cuda"
        torch.manual_seed(config.seed)
        self.model = MoDist(config.model, config.objective, config.motion_channels)
        super().__init__(config, world, self.model, self.model.online, self.model.online, config.optim)
        self._key_statistics = StepStatistics(self.model.momentum, self._num_groups, self._groups_of_a_pass)
        self._momentum_moved = False
        if config.on_bad_step == "skip":
            self.leave_out = LeaveOut(running_statistics(self.model), self.optimizer, self.scaler.is_enabled())
        if config.compile:
            self.model.momentum.compile()
        # A compiled net casts in its own kernels.
        casts = self.dtype != torch.float32 and not config.compile
        self._query_casts = CastWeights(self.model.online) if casts else None
        self._key_casts = CastWeights(self.model.momentum) if casts else None
        if self._parallel is not None:
            average = Bfloat16Average(world.device) if config.comm_dtype == "bfloat16" else None
            self._parallel.register_comm_hook((self.spans, self.gradients, average), _average_gradients)
        elif config.comm_dtype != "float32":
            log.warning("WARNING: --comm-dtype %s: one process sends no gradients.", config.comm_dtype)
        # Collectives have not been seen in graphs yet; the scaler of fp16 keeps its own count on the host, and apex
        # takes the rate as a number, which a graph would repeat.
        recordable = world.size == 1 and self.dtype != torch.float16 and config.optim.implementation == "torch"
        graphs = config.graphs == "auto" and recordable
        self._parts = Parts(cuda_graphs() if new_graph is None and on_gpu and graphs else new_graph)
        # Graphs cannot be recorded on the default stream.
        self._stream = torch.cuda.Stream(world.device) if on_gpu else None
        self._inputs: _Inputs | None = None
        self._rate = torch.zeros((), device=world.device)
        ramp = config.objective.motion and config.objective.cross_warmup_epochs > 0
        self._cross_weight = torch.ones((), device=world.device) if ramp else None
        if world.is_main:
            said = "on" if self._parts.static else "off"
            log.info("step: %d pass(es) of %d group(s); CUDA graphs %s", self._num_passes, self._groups_of_a_pass, said)

    def go_on(self, left_out: bool) -> None:
        """Go on after a step that was left out, or was not: one that was has moved the momentum nets already."""
        self._momentum_moved = left_out

    def _choose_groups_of_a_pass(self) -> int:
        config, clips, num = self.config, self.config.clips, self.config.group_size
        if config.groups_together or self.world.device.type != "cuda":
            return config.groups_together or 1
        with torch.device("meta"):
            nets = Pathways(config.model, config.motion_channels)
            visual = torch.empty(num, 3, clips.visual.num_frames, clips.crop_size, clips.crop_size)
            motion = torch.empty(num, config.motion_channels, clips.motion.num_frames, clips.crop_size, clips.crop_size)
        free_bytes = torch.cuda.mem_get_info(self.world.device)[0]
        fitting = groups_in_a_pass(
            self._num_groups, lambda: nets(visual, motion), nets, self.dtype.itemsize, free_bytes
        )
        return least_over_ranks(fitting, self.world.device)

    def __call__(self, batch: ClipBatch, learning_rate: float, cross_weight: float = 1.0) -> dict[str, Tensor]:
        """Momentum update, keys, queries, loss, gradients, weights, banks; in this order.

        Args:
            batch: of this rank.
            learning_rate: of this step.
            cross_weight: of Lmv, where `objective.cross_warmup_epochs` asks for a ramp.

        Returns:
            Named () float32 figures of this rank, still on the device; the next call may overwrite them.
        """
        if self._cross_weight is not None:
            self._cross_weight.fill_(cross_weight)
        if self._stream is None:
            return self._record_or_take(batch, learning_rate)
        callers = torch.cuda.current_stream(self.world.device)
        self._stream.wait_stream(callers)
        with torch.cuda.stream(self._stream):
            figures = self._record_or_take(batch, learning_rate)
        callers.wait_stream(self._stream)
        return figures

    def _record_or_take(self, batch: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
        try:
            with self._parts.step():
                return self._take_step(batch, learning_rate)
        except RuntimeError as error:
            if not self._parts.recording:
                raise
            # A recording computes nothing, so the step can still be taken.
            log.warning(
                "the step could not be recorded as CUDA graphs, and runs launch by launch from now on, slower where "
                "the host is slow (--graphs off says the same without trying): %s",
                str(error).splitlines()[0],
            )
            self._parts.give_up()
            self._clear_gradients()
            return self._take_step(batch, learning_rate)

    def _take_step(self, batch: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
        with self.spans("copy"):
            inputs = self._take(batch)
        self._run("momentum", self._update_momentum)
        local_keys = self._run("keys", lambda: self._embed_keys(inputs))
        on_the_way = self._run("gather", lambda: _send(local_keys, inputs.numbers))
        # Needed once the first queries are there, and not before.
        received = cache(lambda: self._run("gather", on_the_way.receive, 1))
        figures = self._accumulate_gradients(inputs, received)
        keys, video_ids = received()
        rate = self._rate.fill_(learning_rate) if self._parts.static else learning_rate
        found = self._run("checks", self.gradients.figures)
        checked = self._run("optimizer", lambda: self._update_weights(rate, found))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate  # the number, which a checkpoint keeps
        health = self._run("log", lambda: self._health(figures, keys, video_ids), self._num_passes)
        left_out = self.leave_out.bad if self.leave_out is not None else None
        self._run("enqueue", lambda: self.model.bank.enqueue(keys, video_ids, left_out))
        return health | checked

    def _run(self, name: str, part: Callable[[], Result], index: int = 0) -> Result:
        with self.spans(name):
            return self._parts.run(name, part, index)

    def _take(self, batch: ClipBatch) -> _Inputs:
        """The batch on the device; where graphs are replayed, where they read it and in the nets' own format."""
        rows = np.stack([batch.video_ids, batch.deal, batch.damaged]).astype(np.int64)
        numbers = torch.from_numpy(rows)
        if self.world.device.type == "cuda":
            numbers = numbers.pin_memory().to(self.world.device, non_blocking=True)
        given = _Inputs(batch.visual_query, batch.visual_key, batch.motion_query, batch.motion_key, numbers)
        if not self._parts.static:
            return given
        if self._inputs is None:
            self._inputs = _Inputs(*(self._like(tensor) for tensor in given))  # pyright: ignore[reportArgumentType]
        for mine, tensor in zip(self._inputs, given, strict=True):
            if mine is not None and tensor is not None:
                mine.copy_(tensor, non_blocking=True)
        return self._inputs

    def _like(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return torch.empty_like(tensor, dtype=self.dtype if tensor.is_floating_point() else None)

    def _update_momentum(self) -> None:
        if self._momentum_moved:  # before any graph is recorded
            self._momentum_moved = False
        else:
            self.model.update_momentum(self.config.objective.key_momentum, self.leave_out)
        if self.leave_out is not None:
            self.leave_out.begin()
        if self._key_casts is not None:
            self._key_casts.update(self.dtype)

    @torch.no_grad()
    def _embed_keys(self, inputs: _Inputs) -> Tensor:
        """(M, b, C) keys of the clips that this rank was dealt, normalized group by group."""
        with self._autocast():
            self._key_statistics.begin()
            keys = []
            for visual, motion in self._passes(inputs.visual_key, inputs.motion_key):
                keys.append(self.model.momentum(visual, motion))
                self._key_statistics.after_pass()
            self._key_statistics.end()
            return torch.cat(keys, dim=1)

    def _passes(self, visual: Tensor, motion: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        visuals = visual.chunk(self._num_passes)
        motions = motion.chunk(self._num_passes) if motion is not None else [None] * len(visuals)
        return list(zip(visuals, motions, strict=True))

    def _accumulate_gradients(self, inputs: _Inputs, received: _Received) -> list[dict[str, Tensor]]:
        """Queries, loss and backward of each pass in turn; the banks stay as they are until the step is over."""
        passes = self._passes(inputs.visual_query, inputs.motion_query)
        return [self._pass(index, *clips, received) for index, clips in enumerate(passes)]

    def _pass(self, index: int, visual: Tensor, motion: Tensor | None, received: _Received) -> dict[str, Tensor]:
        size = self.config.group_size * self._groups_of_a_pass
        first = (self.world.rank * self._num_passes + index) * size
        mine = slice(first, first + size)
        with self._without_message(index):
            queries = self._run("queries", lambda: self._embed_queries(visual, motion, index), index)
            keys, video_ids = received()
            terms = self._run("loss", lambda: self._loss(queries, keys[:, mine], video_ids[mine]), index)
            self._run("backward", lambda: self.scaler.scale(terms.loss / self._num_passes).backward(), index)
        return self._run("log", lambda: _figures(terms) | retrieval(queries.detach(), keys, first), index)

    def _embed_queries(self, visual: Tensor, motion: Tensor | None, index: int) -> Tensor:
        if index == 0:
            self._statistics.begin()
        if self._query_casts is not None:
            self._query_casts.set(self.dtype)
        with self._autocast():
            queries = self._learner(visual, motion)
        if self._query_casts is not None:
            self._query_casts.clear()
        self._statistics.after_pass()
        return queries

    def _loss(self, queries: Tensor, keys: Tensor, video_ids: Tensor) -> LossTerms:
        bank, objective = self.model.bank, self.config.objective
        return motion_distillation_loss(
            queries, keys, bank, video_ids, objective, self._groups_of_a_pass, self._cross_weight
        )

    def _health(self, figures: list[dict[str, Tensor]], keys: Tensor, video_ids: Tensor) -> dict[str, Tensor]:
        """The means of the passes' figures, and how keys and banks are doing."""
        means = {name: torch.stack([one[name] for one in figures]).mean() for name in figures[0]}
        means |= spread(keys) | uniformity(keys) | bank_health(self.model.bank, video_ids)
        return means | {"videos_damaged": (video_ids < 0).sum().float()}


def _send(local_keys: Tensor, numbers: Tensor) -> KeysOnTheWay:
    video_ids, deal, damaged = numbers
    return KeysOnTheWay(local_keys, deal, video_ids.int(), damaged.bool())


def _average_gradients(
    state: tuple[Spans, GradientCheck, Bfloat16Average | None], bucket: dist.GradBucket
) -> torch.futures.Future[Tensor]:
    """DDP's communication hook: its usual average, or `average`. Once the last bucket is off, backward only waits."""
    spans, gradients, average = state
    gradients.see_own(bucket.buffer())
    spans.rest_is("all_reduce")
    if average is not None:
        return average(bucket.buffer())
    return allreduce_hook(None, bucket)  # pyright: ignore[reportArgumentType], None is the default group


def _figures(terms: LossTerms) -> dict[str, Tensor]:
    named = {"loss": terms.loss.detach()}
    for kind in ("losses", "top1", "positive"):
        values = getattr(terms, kind).unbind()
        named |= {f"{kind.removesuffix('es')}_{term}": value for term, value in zip(TERMS, values, strict=False)}
    return named
