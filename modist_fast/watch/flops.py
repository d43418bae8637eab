"""How many floating-point operations a net does, and how many its device could do."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modist_fast.watch.rates import matmul_rate


def count_flops(net: nn.Module, inputs: Sequence[Tensor | None], backward: bool) -> int:
    """Operations (a multiply-add is two) of one call of `net`, without computing it.

    Args:
        net: on torch's meta device; returns one tensor.
        inputs: on the meta device too.
        backward: count the backward pass to all parameters as well.
    """
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        result = net(*inputs)
        if backward:
            result.sum().backward()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Operations a second that a large matrix product reaches on `device` now, and how that was found."""
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    rate = matmul_rate(device, dtype)
    return rate * 1e12, f"the {rate:.2f} TFLOP/s that a {name} matrix product reaches here"
