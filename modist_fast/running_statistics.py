"""Running statistics of batch norm in a step that runs several groups, one after another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM = 0.1  # share by which running statistics move, a step


def running_statistics(net: nn.Module) -> list[Tensor]:
    """The running means and variances of a net, the only state of it that differs between ranks."""
    return [b for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var"))]


class StepStatistics:
    """Has a step of G groups make of a running statistic r: (1 - M) r + M · mean over the groups.

    Updated as usual, r would move by M a group: further where a process runs more groups, and the last group would
    weigh most. So the mean over processes is that of one process with all the groups. The layers' own momentum is the
    same in every group, since torch.compile compiles a net anew for each value that it meets.

    Args:
        net: on its device; a later `.to` would leave this with old buffers.
        num_groups: that a process runs in a step.
    """

    def __init__(self, net: nn.Module, num_groups: int) -> None:
        self._buffers = running_statistics(net)
        self._num_groups = num_groups
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = MOMENTUM if num_groups == 1 else 1.0  # 1: the buffers hold the last group's own

    @contextmanager
    def step(self) -> Iterator[Callable[[], None]]:
        """Around the step's groups, backward included, which needs the buffers as forward left them.

        Yields:
            A call to be made after the forward of each group.
        """
        if self._num_groups == 1 or not self._buffers:
            yield lambda: None
            return
        result = torch._foreach_mul(self._buffers, 1 - MOMENTUM)

        def after_group() -> None:
            torch._foreach_add_(result, self._buffers, alpha=MOMENTUM / self._num_groups)

        yield after_group
        torch._foreach_copy_(self._buffers, result)
