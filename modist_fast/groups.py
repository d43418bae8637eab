"""How many groups of samples go through the nets in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modist_fast.models.norm import GroupBatchNorm

_SHARE = 0.6  # of the free memory; the rest is for decoding, the allocator's gaps and what the estimate leaves out
_KEPT = 4  # tensors for each norm: its input, its output, and in backward a gradient of each


def activation_bytes(run: Callable[[], Tensor], nets: nn.Module, bytes_per_value: int) -> int:
    """Memory that a group's forward and backward need: four times the inputs of all norms, an estimate.

    What a net keeps for backward is what its norms read and make. Heads and losses are small beside it.

    Args:
        run: calls `nets` on a group's clips; nets and clips on the meta device.
        nets: see run.
        bytes_per_value: of the format in which the nets compute.
    """
    values = 0

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal values
        values += inputs[0].numel()

    norms = [module for module in nets.modules() if isinstance(module, GroupBatchNorm)]
    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return _KEPT * values * bytes_per_value


def groups_in_a_pass(num_groups: int, bytes_of_a_group: int, free_bytes: int) -> int:
    """The largest divisor of `num_groups` whose activations fit into a share of the free memory; at least 1."""
    fitting = [
        n for n in range(1, num_groups + 1) if num_groups % n == 0 and n * bytes_of_a_group <= _SHARE * free_bytes
    ]
    return max(fitting, default=1)
