"""Batch norm over groups of a batch: what is computed, and from what.

    z = (x - mean_g) / sqrt(var_g + eps) · weight + bias (+ residual),  y = z, or max(z, 0) with ReLU

mean_g and var_g are those of each channel over group g of the batch, its frames and pixels; the variance divides by
their number R. Running statistics r move to (1 - M) r + M · mean over the groups, the variance's by R - 1 there.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def batch_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    groups: int = 1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute what `batch_norm` computes in plain torch, in the type of `x`, one step after another."""
    check(x, groups, residual)
    channels = x.unflatten(0, (groups, -1)).movedim(2, 1).flatten(2)  # (G, C, R)
    mean, var = channels.mean(2), channels.var(2, correction=0)
    with torch.no_grad():
        rows = channels.shape[2]
        running_mean.lerp_(mean.mean(0).to(running_mean.dtype), momentum)
        running_var.lerp_((var.mean(0) * (rows / (rows - 1))).to(running_var.dtype), momentum)
    shape = (groups, 1, -1) + (1,) * (x.dim() - 2)
    deviation = x.unflatten(0, (groups, -1)) - mean.view(shape)
    inner = (1, -1) + (1,) * (x.dim() - 2)
    z = (deviation / (var.view(shape) + eps).sqrt()).flatten(0, 1) * weight.view(inner) + bias.view(inner)
    z = z if residual is None else z + residual
    return F.relu(z) if relu else z


def check(x: Tensor, groups: int, residual: Tensor | None) -> None:
    """
    Raises:
        ValueError: shapes that do not fit; the message names the argument.
    """

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"batch_norm: {message}")

    require(x.dim() in (2, 4), f"x must be (N, C) or (N, C, H, W), and is {tuple(x.shape)}")
    require(groups >= 1 and len(x) % groups == 0, f"{len(x)} rows of x do not split into groups={groups}")
    require(x.numel() // x.shape[1] > groups, "a group of one value has no variance: use larger groups")
    require(residual is None or residual.shape == x.shape, "residual must have the shape of x")
