"""Batch norm as the nets use it: group by group of the batch, with the addition and the ReLU behind it in one."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from modist_kernels import batch_norm

_TICKETS = 4096  # 16 for each of 256 groups


class GroupBatchNorm(_BatchNorm):
    """In training, each of `groups` equal parts of the batch is normalized by its own statistics.

    Weights and buffers are those of torch's batch norm. `num_batches_tracked` is kept for the files that have it, and
    not counted: nothing reads it, and it would be a launch a layer and step.
    """

    momentum: float  # pyright: ignore[reportIncompatibleVariableOverride], torch's may be None, which needs the count
    running_mean: Tensor
    running_var: Tensor
    tickets: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.groups = 1
        self.register_buffer("tickets", torch.zeros(_TICKETS, dtype=torch.int32), persistent=False)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 5):
            raise ValueError(f"expected (B, C) or (B, C, T, H, W), got {tuple(input.shape)}")

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """relu(norm(x) + residual), (B, C) or (B, C, T, H, W) as x.

        Clips are normalized as a batch of frames, which is a view where channels are last: torch and the GPU's
        libraries have fast ways for 4D alone.
        """
        self._check_input_dim(x)
        frames, added = _frames(x), None if residual is None else _frames(residual)
        if self.training:
            y = batch_norm(
                frames,
                self.weight,
                self.bias,
                self.running_mean,
                self.running_var,
                tickets=self.tickets,
                groups=self.groups,
                momentum=self.momentum,
                eps=self.eps,
                residual=added,
                relu=relu,
            )
        else:
            y = F.batch_norm(frames, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
            y = y if added is None else y.add_(added)
            y = F.relu_(y) if relu else y
        # x.shape[0], for len(x) would fix the batch of an exported net.
        return y if x.dim() == 2 else y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B T, C, H, W), or x where it is (B, C)."""
    return x if x.dim() == 2 else x.transpose(1, 2).flatten(0, 1)
