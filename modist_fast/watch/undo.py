"""A step whose gradients are not finite, left out on the device: nobody waits to learn whether it was."""

from collections.abc import Sequence

import torch
from torch import Tensor


def begin_momentum_at_zero(optimizer: torch.optim.Optimizer) -> None:
    """Give weights the momentum that they have before a first step.

    torch's fused SGD makes it at that step, of memory as it is found; where the step is then left out, so it stays.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            if parameter.requires_grad:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


class LeaveOut:
    """Leaves everything that a bad step would change as it was before it.

    Gradients are averaged over the ranks, so each comes to the same answer, without a message of its own.

    Args:
        statistics: buffers that the forward passes change.
        optimizer: SGD, fused, or LARS: each takes no step where its `found_inf` is 1.
        scaled: by fp16's scaler, which tells the optimizer itself.

    Attributes:
        bad: () float32 on the device, 1 where the step before was left out. A graph reads it where it lies.
    """

    def __init__(self, statistics: Sequence[Tensor], optimizer: torch.optim.Optimizer, scaled: bool) -> None:
        device = optimizer.param_groups[0]["params"][0].device
        self.bad = torch.zeros((), device=device)
        self._statistics, self._sizes = list(statistics), [buffer.numel() for buffer in statistics]
        self._before = torch.empty(0)
        begin_momentum_at_zero(optimizer)
        if not scaled:
            optimizer.found_inf = self.bad  # pyright: ignore[reportAttributeAccessIssue], as torch's scaler does

    def move_momentum(self, followers: list[Tensor], online: list[Tensor], weight: float) -> None:
        """θ' ← θ' + weight (θ - θ'), but after a step that was left out: that one has moved it to the same θ.

        A chosen target, for a factor on the weight would round otherwise than a run that leaves nothing out.
        """
        targets = torch._foreach_mul(online, 1 - self.bad)
        torch._foreach_add_(targets, torch._foreach_mul(followers, self.bad))
        torch._foreach_lerp_(followers, list(targets), weight)

    def begin(self) -> None:
        """Before the first forward pass of a step."""
        if self._statistics:
            self._before = torch.cat(self._statistics)

    def decide(self, bad_gradients: Tensor) -> None:
        """After the last backward pass, before the optimizer.

        Args:
            bad_gradients: () how many are not finite, of all ranks together.
        """
        self.bad.copy_(bad_gradients > 0)

    def restore(self) -> None:
        """After the last pass, when the statistics are those of the whole step."""
        if self._statistics:
            chosen = torch.where(self.bad > 0, self._before, torch.cat(self._statistics))
            torch._foreach_copy_(self._statistics, list(chosen.split(self._sizes)))
