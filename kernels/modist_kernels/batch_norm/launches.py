"""Launches of the Triton kernels of batch_norm."""

from typing import Any

import torch
import triton
from torch import Tensor

from modist_kernels.batch_norm.definition import DTYPES
from modist_kernels.batch_norm.kernels import (
    gradient_kernel,
    gradient_sums_kernel,
    normalize_kernel,
    statistics_kernel,
)
from modist_kernels.launch import launch

_TILE = 4096  # values of a tile: 32 for each thread of 4 warps
_PROGRAMS = 1024  # wanted of a launch: several for each multiprocessor
_MOST_SPLITS = 256


def split(rows: int, groups: int, channels: int) -> tuple[int, int, int, int]:
    """How a launch cuts rows and channels up.

    Returns:
        Rows of a tile, channels of a tile, parts of a group's rows, rows of a part.
    """
    block_c = min(128, triton.next_power_of_2(channels))
    block_r = _TILE // block_c
    tiles = triton.cdiv(channels, block_c)
    parts = max(1, min(_PROGRAMS // (groups * tiles), triton.cdiv(rows, block_r), _MOST_SPLITS))
    rows_per_part = triton.cdiv(triton.cdiv(rows, parts), block_r) * block_r
    return block_r, block_c, triton.cdiv(rows, rows_per_part), rows_per_part


def _rows_of(x: Tensor) -> Tensor:
    """(N, C) or (N, C, H, W) in channels-last as the kernels read it; a copy where it lies otherwise."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def forward(
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
    """See `modist::batch_norm`."""
    _check_kernel_input(x, tickets, groups)
    x = _rows_of(x)
    residual = None if residual is None else _rows_of(residual.to(x.dtype))
    channels = x.shape[1]
    rows = x.numel() // channels // groups
    block_r, block_c, parts, rows_per_part = split(rows, groups, channels)
    mean = torch.empty(groups, channels, dtype=torch.float32, device=x.device)
    inverse_std, y = torch.empty_like(mean), torch.empty_like(x)
    grid = (parts, groups, triton.cdiv(channels, block_c))
    sizes: dict[str, Any] = {"C": channels, "BLOCK_R": block_r, "BLOCK_C": block_c}
    partial = torch.empty(2, groups, parts, channels, dtype=torch.float32, device=x.device)
    launch(statistics_kernel, grid, x, partial, tickets, mean, inverse_std, rows, rows_per_part, eps, **sizes)
    flags: dict[str, Any] = {"RESIDUAL": residual is not None, "RELU": relu}
    launch(
        normalize_kernel,
        grid,
        x,
        x if residual is None else residual,
        weight,
        bias,
        mean,
        inverse_std,
        running_mean,
        running_var,
        y,
        rows,
        rows_per_part,
        momentum,
        eps,
        **sizes,
        **flags,
    )
    return y, mean, inverse_std


def backward(
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
    """See `modist::batch_norm_backward`."""
    x, grad_y = _rows_of(x), _rows_of(grad_y)
    groups, channels = mean.shape
    rows = x.numel() // channels // groups
    block_r, block_c, parts, rows_per_part = split(rows, groups, channels)
    grad_x = torch.empty_like(x)
    grad_residual = torch.empty_like(x) if has_residual else x.new_empty(0)
    sums = torch.empty(2, groups, channels, dtype=torch.float32, device=x.device)
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    grid = (parts, groups, triton.cdiv(channels, block_c))
    sizes: dict[str, Any] = {"C": channels, "BLOCK_R": block_r, "BLOCK_C": block_c}
    partial = torch.empty(2, groups, parts, channels, dtype=torch.float32, device=x.device)
    flags: dict[str, Any] = {"RESIDUAL": has_residual, "RELU": relu}
    launch(
        gradient_sums_kernel,
        grid,
        grad_y,
        x,
        y,
        weight,
        bias,
        mean,
        inverse_std,
        grad_residual if has_residual else grad_y,
        partial,
        tickets,
        sums,
        rows,
        rows_per_part,
        **sizes,
        **flags,
    )
    mask: dict[str, Any] = {"MASK": relu and not has_residual}
    launch(
        gradient_kernel,
        grid,
        grad_residual if has_residual else grad_y,
        x,
        weight,
        bias,
        mean,
        inverse_std,
        sums,
        grad_x,
        grad_weight,
        grad_bias,
        rows,
        rows_per_part,
        **sizes,
        **mask,
    )
    return grad_x, grad_residual, grad_weight, grad_bias


def _check_kernel_input(x: Tensor, tickets: Tensor, groups: int) -> None:
    needed = groups * triton.cdiv(x.shape[1], min(128, triton.next_power_of_2(x.shape[1])))
    problem = None
    if x.dtype not in DTYPES:
        problem = f"x must be float16, bfloat16 or float32, and is {x.dtype}"
    elif tickets.numel() < needed:
        problem = f"{groups} groups of {x.shape[1]} channels need {needed} tickets, and there are {tickets.numel()}"
    if problem:
        raise ValueError(f"batch_norm, Triton kernel: {problem}. backend='reference' takes any.")
