"""Batch norm: which running statistics a net gets, in a step, from clips, and on several ranks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modist_fast.host.distributed import mean_over_ranks
from modist_fast.host.torch_names import all_gather_single
from modist_fast.models.norm import GroupBatchNorm

MOMENTUM = 0.1  # share by which running statistics move, a step
CALIBRATION_CLIPS = 256  # at most
CALIBRATION_BATCH = 32


def running_statistics(net: nn.Module) -> list[Tensor]:
    """The (C,) buffers that forward passes in training mode change."""
    return [b for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var"))]


def agree_on_statistics(net: nn.Module) -> None:
    """Give the net of every rank the mean of the running statistics, the only state in which ranks differ.

    Means of moving averages are moving averages of means: every number of ranks comes to the same.
    """
    mean_over_ranks(running_statistics(net))


class StepStatistics:
    """Has a step of G groups make of a running statistic r: (1 - M) r + M · mean over the groups.

    Updated as usual, r would move by M a group: further where a process runs more groups, and the last group would
    weigh most. So the mean over processes is that of one process with all the groups. The layers' own momentum is the
    same in every group, since torch.compile compiles a net anew for each value that it meets.

    Args:
        net: on its device; a later `.to` would leave this with old buffers.
        num_groups: that a process runs in a step.
        together: groups that go through the net in one pass; the norms average over these themselves.
    """

    def __init__(self, net: nn.Module, num_groups: int, together: int = 1) -> None:
        self._buffers = running_statistics(net)
        self._result: list[Tensor] = []
        self._num_passes = num_groups // together
        for norm in _norms(net):
            norm.groups = together
            norm.momentum = MOMENTUM if self._num_passes == 1 else 1.0  # 1: the buffers hold the last pass's own

    def begin(self) -> None:
        """Before the first pass of a step."""
        self._result = (
            list(torch._foreach_mul(self._buffers, 1 - MOMENTUM)) if self._num_passes > 1 and self._buffers else []
        )

    def after_pass(self) -> None:
        """After the forward of each pass."""
        if self._result:
            torch._foreach_add_(self._result, self._buffers, alpha=MOMENTUM / self._num_passes)

    def end(self) -> None:
        """After the step's last backward, which needs the buffers as forward left them."""
        if self._result:
            torch._foreach_copy_(self._buffers, self._result)


def has_batch_norm(net: nn.Module) -> bool:
    """Whether there are any statistics to be had: a ViT has none."""
    return bool(_norms(net))


def _norms(net: nn.Module) -> list[GroupBatchNorm]:
    return [module for module in net.modules() if isinstance(module, GroupBatchNorm)]


@contextmanager
def _momentum(norms: Sequence[GroupBatchNorm], momentum: float) -> Iterator[None]:
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = momentum
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.momentum = old


@torch.no_grad()
def calibrate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give a random net the statistics of clips, the plain mean over batches: without them eval mode means nothing.

    Args:
        net: left in eval mode.
        batches: (B, 3, T, H, W) each, of CALIBRATION_BATCH clips; one of a single clip is passed over.
    """
    norms = _norms(net.train())
    for norm in norms:
        norm.reset_running_stats()
    for index, batch in enumerate(_of_several(batches)):
        with _momentum(norms, 1 / (index + 1)):  # all batches weigh the same
            net(batch)
    net.eval()


def _of_several(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """A clip alone would be normalized by itself, as none is in training."""
    return (batch for batch in batches if len(batch) > 1)


@torch.no_grad()
def set_precise_statistics(
    net: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None
) -> int | None:
    """Set the running statistics of each batch norm to the mean and variance of all its inputs over some clips.

    Precise batch norm (Wu and Johnson, arXiv:2105.07576): while a net trains, its running statistics lag behind its
    weights. After the last step they are computed anew, with the weights as they are. The clips pass through the net
    in batches, each normalized by its own statistics, as in training. Batch norms in eval mode (frozen ones) keep what
    they have. All ranks call it, each with its own clips.

    Args:
        net: in the mode that it trains in; left so.
        batches: (B, 3, T, H, W) each; one of a single clip is passed over.
        forward: runs the net on a batch; by default the net itself.

    Returns:
        The clips that this rank saw; None where no rank saw any, and the statistics are as they were.
    """
    forward = forward or net
    moments = [_Moments(norm) for norm in _norms(net) if norm.training]
    hooks = [entry.norm.register_forward_pre_hook(entry.see) for entry in moments]
    num_clips = 0
    try:
        with _momentum([entry.norm for entry in moments], 0.0):  # the running statistics rest meanwhile
            for batch in _of_several(batches):
                forward(batch)
                num_clips += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for entry in moments:
        entry.merge_ranks()
    if any(entry.count < 2 for entry in moments):
        return None
    for entry in moments:
        entry.write()
    return num_clips


class _Moments:
    """Count, mean and sum of squared deviations of each channel, over batches, in float64 (Chan et al., 1979)."""

    def __init__(self, norm: GroupBatchNorm) -> None:
        self.norm = norm
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
        all_gather_single(rows, mine)
        self.count, self.mean, self.squares = (torch.zeros_like(t) for t in (self.count, self.mean, self.squares))
        for row in rows:
            count, mean, squares = row.split([1, len(self.mean), len(self.mean)])
            self.merge(count, mean, squares)

    def write(self) -> None:
        norm = self.norm
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / (self.count - 1).clamp(min=1))
