"""Batch norm over groups of a batch: custom ops, autograd, public call. `definition.py` says what is computed."""

from typing import Any

import torch
from torch import Tensor

from modist_kernels.batch_norm import cpu
from modist_kernels.batch_norm.definition import check
from modist_kernels.dispatch import choose_backend

# ---- Custom ops, so that shapes can be followed without a device


@torch.library.custom_op("modist::batch_norm", mutates_args=("running_mean", "running_var", "tickets"))
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    tickets: Tensor,
    groups: int,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y as x, and mean and 1 / standard deviation (G, C) float32."""
    from modist_kernels.batch_norm.launches import forward

    return forward(x, weight, bias, running_mean, running_var, tickets, groups, momentum, eps, residual, relu)


@_forward.register_fake
def _(x, weight, bias, running_mean, running_var, tickets, groups, momentum, eps, residual, relu):
    mean = x.new_empty(groups, x.shape[1], dtype=torch.float32)
    return _as_rows(x), mean, torch.empty_like(mean)


@torch.library.custom_op("modist::batch_norm_backward", mutates_args=("tickets",))
def _backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    tickets: Tensor,
    has_residual: bool,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, residual (empty without one), weight and bias."""
    from modist_kernels.batch_norm.launches import backward

    return backward(grad_y, x, y, weight, bias, mean, inverse_std, tickets, has_residual, relu)


@_backward.register_fake
def _(grad_y, x, y, weight, bias, mean, inverse_std, tickets, has_residual, relu):
    grad_residual = _as_rows(x) if has_residual else x.new_empty(0)
    return _as_rows(x), grad_residual, torch.empty_like(weight), torch.empty_like(bias)


def _as_rows(x: Tensor) -> Tensor:
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return torch.empty_like(x, memory_format=layout)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, _, _, tickets, _, _, _, residual, relu = inputs
        y, mean, inverse_std = _forward(*inputs)
        ctx.relu, ctx.has_residual = relu, residual is not None
        # Where nothing was added, the ReLU's mask can be had from x.
        kept = y if relu and residual is not None else x
        ctx.save_for_backward(x, kept, weight, bias, mean, inverse_std, tickets)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grads = _backward(grad_y, *ctx.saved_tensors, ctx.has_residual, ctx.relu)
        grad_x, grad_residual, grad_weight, grad_bias = grads
        none = (None,) * 6
        return grad_x, grad_weight, grad_bias, *none, grad_residual if ctx.has_residual else None, None


# ---- Public call


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    tickets: Tensor | None = None,
    groups: int = 1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Normalize each group of a batch by its own statistics, add `residual`, apply ReLU: as training does.

    Args:
        x: (N, C), or (N, C, H, W) in channels-last (another layout is copied by the Triton kernel); float16, bfloat16
            or float32. Group g is rows [g N / G, (g + 1) N / G).
        weight, bias: (C,) float32.
        running_mean, running_var: (C,) float32, moved in place by `momentum` towards the mean over the groups.
        tickets: int32 zeros for the Triton kernel, left as zeros: one for each group and 128 channels. Calls that can
            run at the same time need tickets of their own; None makes new ones.
        groups: G.
        momentum: M.
        eps: added to the variance.
        residual: as x, added before the ReLU.
        relu: whether there is one.
        backend: one of `BACKENDS` to force an implementation; by default Triton on CUDA, torch's own on the CPU.

    Returns:
        As x, in its type. Gradients go to x, weight, bias and residual.

    Raises:
        ValueError: shapes, types or options that do not fit, or a backend that does not run here.
    """
    check(x, groups, residual)
    statistics = (x, weight, bias, running_mean, running_var)
    # On "meta" only shapes are followed.
    if x.device.type == "meta" or choose_backend("batch_norm", x.device, backend) != "triton":
        return cpu.forward(*statistics, groups, momentum, eps, residual, relu)
    if tickets is None:
        tickets = torch.zeros(groups * -(-x.shape[1] // 8), dtype=torch.int32, device=x.device)
    return _BatchNorm.apply(*statistics, tickets, groups, momentum, eps, residual, relu)
