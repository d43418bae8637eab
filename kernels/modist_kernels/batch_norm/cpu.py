"""Batch norm over groups on the CPU: torch's own, group by group; also what runs on any device as "reference"."""

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    groups: int,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """See `batch_norm`; torch's autograd makes the backward."""
    if groups == 1:
        y = F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    else:
        own = [(torch.zeros_like(running_mean), torch.zeros_like(running_var)) for _ in range(groups)]
        parts = [
            F.batch_norm(part, mean, var, weight, bias, True, 1.0, eps)
            for part, (mean, var) in zip(x.chunk(groups), own, strict=True)
        ]
        y = torch.cat(parts)
        with torch.no_grad():
            running_mean.lerp_(torch.stack([mean for mean, _ in own]).mean(0), momentum)
            running_var.lerp_(torch.stack([var for _, var in own]).mean(0), momentum)
    if residual is not None:
        y = y.add_(residual)
    return F.relu_(y) if relu else y
