"""A step over groups of samples: what pre-training and fine-tuning share, and how many groups go in one pass."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modist_fast.batch_norm import StepStatistics
from modist_fast.config import OptimConfig
from modist_fast.host.arithmetic import arithmetic_of
from modist_fast.host.distributed import World
from modist_fast.host.precision import resolve_precision
from modist_fast.host.torch_names import buffers_stay
from modist_fast.models.layers import lay_gradients_as_weights
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.optim import build_optimizer
from modist_fast.watch.gradients import GradientCheck
from modist_fast.watch.undo import LeaveOut, begin_momentum_at_zero

log = logging.getLogger("modist")
_SHARE = 0.6  # of the free memory; the rest is for decoding, the allocator's gaps and what the estimate leaves out
_KEPT = 4  # tensors for each batch norm: its input, its output, and in backward a gradient of each
# For each of a transformer block's two layer norms: input, output, half of query, key, value, attention, its projection
# and of the hidden layer, four times as wide, before and after its GELU; half of these in float32; and gradients.
_KEPT_OF_TOKENS = 16


def groups_in_a_pass(
    num_groups: int, run: Callable[[], Tensor], nets: nn.Module, bytes_per_value: int, free_bytes: int
) -> int:
    """The largest divisor of `num_groups` whose activations fit into a share of the free memory; at least 1.

    An estimate: what a net keeps for backward is what its norms read and make, and of tokens what lies between them.
    Heads and losses are small beside it.

    Args:
        run: calls `nets` on a group's clips; nets and clips on the meta device.
        nets: made for this; they are left with hooks.
        bytes_per_value: of the format in which the nets compute.
    """
    values = 0

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal values
        values += inputs[0].numel() * (_KEPT_OF_TOKENS if isinstance(module, nn.LayerNorm) else _KEPT)

    for module in nets.modules():
        if isinstance(module, GroupBatchNorm | nn.LayerNorm):
            module.register_forward_pre_hook(see)
    with torch.no_grad():
        run()
    needed, room = values * bytes_per_value, _SHARE * free_bytes
    return max((n for n in range(1, num_groups + 1) if num_groups % n == 0 and n * needed <= room), default=1)


class GroupedStep:
    """A net that learns, its optimizer, and the rules by which passes over groups of samples become one step.

    Batch norm, gradients and losses are computed over groups of `group_size` samples, several in a pass or one after
    another; W processes share the groups of a batch, so that any W computes the same function.

    Args:
        config: of either; what is read here are batch_size, group_size, precision, compile and what
            `arithmetic_of` reads.
        world: from `join_world`.
        model: goes to the device.
        net: the part of `model` that learns.
        normed: the part of `net` whose batch norm learns.
        optim: of `net`.
    """

    def __init__(
        self, config: Any, world: World, model: nn.Module, net: nn.Module, normed: nn.Module, optim: OptimConfig
    ) -> None:
        self.world = world
        self.dtype, reason = resolve_precision(config.precision, world.device)
        if world.is_main:
            log.info("precision %s; %s", reason, arithmetic_of(config).words(world.device))
        # Shapes are always the same; but which convolution is found to be the fastest can differ from run to run.
        searches = world.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
        torch.backends.cudnn.benchmark = searches
        model.to(world.device, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        self._num_groups = config.batch_size // (config.group_size * world.size)
        self._groups_of_a_pass = self._choose_groups_of_a_pass()
        self._num_passes = self._num_groups // self._groups_of_a_pass
        self._statistics = StepStatistics(normed, self._num_groups, self._groups_of_a_pass)
        if config.compile:
            net.compile()
        self.optimizer = build_optimizer(net, optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        if self.scaler.is_enabled():
            begin_momentum_at_zero(self.optimizer)
        self.gradients = GradientCheck(net.named_parameters(), world.rank, world.size, world.device)
        self.leave_out: LeaveOut | None = None
        """Set where steps that go bad are left out."""
        self._parallel = None
        if world.size > 1:
            lay_gradients_as_weights(net)
            # DDP learns a static graph from its first backward, which must not be one without synchronization.
            self._parallel = DistributedDataParallel(
                net, **buffers_stay(), gradient_as_bucket_view=True, static_graph=self._num_passes == 1
            )
        self._learner = self._parallel or net

    @property
    def groups_of_a_pass(self) -> int:
        """Groups that go through the net together."""
        return self._groups_of_a_pass

    def _choose_groups_of_a_pass(self) -> int:
        """A divisor of `_num_groups`; asked once the model is on the device."""
        return 1

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _without_message(self, index: int) -> AbstractContextManager[None]:
        """Around pass `index`: gradients travel once a step, with the last pass."""
        if self._parallel is None or index == self._num_passes - 1:
            return nullcontext()
        return self._parallel.no_sync()

    def _update_weights(self, learning_rate: Tensor | float, checked: dict[str, Tensor]) -> dict[str, Tensor]:
        """After the last pass: running statistics and weights.

        Args:
            checked: figures of the gradients, see `GradientCheck`.

        Returns:
            These; in fp16 the "loss_scale" too.
        """
        figures = dict(checked)
        self._statistics.end()
        if self.leave_out is not None:
            self.leave_out.decide(self.gradients.count_of(figures))
            self.leave_out.restore()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and (scale := self.scaler._scale) is not None:
            figures["loss_scale"] = scale.detach().clone().reshape(())
        self._clear_gradients()
        return figures

    def _clear_gradients(self) -> None:
        # DDP's gradients are views of its buckets; without it, backward hands its own over.
        # torch's own method, since apex's classes have another.
        torch.optim.Optimizer.zero_grad(self.optimizer, set_to_none=self._parallel is None)
