"""Precise batch norm: running statistics that are those of many clips, instead of a moving average of the last steps.

(Wu and Johnson, arXiv:2105.07576.) While a net trains, its running statistics lag behind its weights. After the last
step they are computed anew, with the weights as they are.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from modist_fast.errors import ConfigError


class _Moments:
    """Count, mean and sum of squared deviations of each channel, over batches, in float64 (Chan et al., 1979)."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        assert norm.running_mean is not None
        zeros = torch.zeros_like(norm.running_mean, dtype=torch.float64)
        self.count, self.mean, self.squares = zeros[:1].clone(), zeros, zeros.clone()

    def see(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """Take in a batch, (B, C, …), on its way into the norm."""
        channels = inputs[0].detach().transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(channels.float(), dim=1, correction=0)
        count = torch.full_like(self.count, channels.shape[1])
        self.merge(count, mean.double(), count * variance.double())

    def merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share = count / total.clamp(min=1)
        gap = mean - self.mean
        self.squares = self.squares + squares + gap.square() * self.count * share
        self.mean = self.mean + gap * share
        self.count = total

    def merge_ranks(self) -> None:
        """Every rank's moments, in the order of the ranks, so that all get the same."""
        mine = torch.cat([self.count, self.mean, self.squares])[None]
        rows = mine.new_empty(dist.get_world_size(), mine.shape[1])
        dist.all_gather_single(rows, mine)
        self.count, self.mean, self.squares = (torch.zeros_like(t) for t in (self.count, self.mean, self.squares))
        for row in rows:
            count, mean, squares = row.split([1, len(self.mean), len(self.mean)])
            self.merge(count, mean, squares)

    def write(self) -> None:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / (self.count - 1).clamp(min=1))


@torch.no_grad()
def set_precise_statistics(
    net: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Set the running statistics of each batch norm to the mean and variance of all its inputs over some clips.

    The clips pass through the net in batches, each normalized by its own statistics, as in training. Batch norms in
    eval mode (frozen ones) keep what they have. All ranks call it, each with its own clips.

    Args:
        net: in the mode that it trains in; left so.
        batches: (B, 3, T, H, W) each.
        forward: runs the net on a batch; by default the net itself.

    Returns:
        The clips that this rank saw.

    Raises:
        ConfigError: no rank had any.
    """
    forward = forward or net
    moments = [_Moments(m) for m in net.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [entry.norm.momentum for entry in moments]
    hooks: list[RemovableHandle] = []
    num_clips = 0
    try:
        for entry in moments:
            entry.norm.momentum = 0.0  # the running statistics rest meanwhile
            hooks.append(entry.norm.register_forward_pre_hook(entry.see))
        for batch in batches:
            forward(batch)
            num_clips += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for entry, momentum in zip(moments, momenta, strict=True):
            entry.norm.momentum = momentum
    for entry in moments:
        entry.merge_ranks()
        if entry.count < 2:
            raise ConfigError("--precise-bn-clips: no clip could be read. Look at the log, or pass 0 to go without.")
    for entry in moments:
        entry.write()
    return num_clips
