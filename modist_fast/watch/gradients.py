"""Whether the gradients of a step are numbers: counted on the device, read as late as the loss is."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_COUNT, _FIRST, _PEAK, _RANK = "bad_gradients", "first_bad_gradient", "bad_gradient_norm", "bad_on_rank_"


class GradientCheck:
    """Counts the gradients with an infinity or a NaN in a handful of launches, whatever their number.

    Args:
        named: the parameters that learn.
        rank, world_size: of this process.
        device: that computes the gradients.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], rank: int, world_size: int, device: torch.device
    ) -> None:
        self._one_by_one = self.reads_one_by_one(device)
        self._named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self._rank, self._world_size = rank, world_size
        self._own: list[Tensor] = []
        self.names: list[str] = []
        """Of the parameters with a gradient, in the order in which a figure counts them."""

    @staticmethod
    def reads_one_by_one(device: torch.device) -> bool:
        """On a CPU, whose norm of infinite order takes ten times as long as a look at each tensor's ends."""
        return device.type == "cpu"

    def see_own(self, gradients: Tensor) -> None:
        """Take in gradients of this rank alone, before they are averaged: afterwards every rank's are bad."""
        self._own.extend(torch.aminmax(gradients))

    @torch.no_grad()
    def figures(self) -> dict[str, Tensor]:
        """Named () float32 figures on the device, alike on all ranks once averaged: how many tensors are bad, which is
        the first, its largest magnitude, and for each rank whether its own were bad."""
        found = [(name, parameter.grad) for name, parameter in self._named if parameter.grad is not None]
        self.names = [name for name, _ in found]
        peaks = self._peaks([gradient for _, gradient in found])
        bad = ~peaks.isfinite()
        first = bad.float().argmax()
        figures = {_COUNT: bad.sum().float(), _FIRST: first.float(), _PEAK: peaks.gather(0, first[None])[0]}
        if self._world_size == 1:
            return figures
        own = torch.stack(self._own).float().isfinite().all() if self._own else torch.ones((), device=peaks.device)
        self._own = []
        ranks = torch.zeros(self._world_size, device=peaks.device)
        ranks[self._rank] = 1 - own.float()
        return figures | {f"{_RANK}{rank}": value for rank, value in enumerate(ranks.unbind())}

    def _peaks(self, gradients: list[Tensor]) -> Tensor:
        """(K,) float32 largest magnitudes, since a sum of squares may overflow where nothing else does."""
        if self._one_by_one:
            least, most = zip(*map(torch.aminmax, gradients), strict=True)
            return torch.stack([*least, *most]).abs().view(2, -1).amax(dim=0).float()
        return torch.stack(torch._foreach_norm(gradients, float("inf"))).float()

    @staticmethod
    def count_of(figures: Mapping[str, Tensor]) -> Tensor:
        """() how many tensors are bad, of the figures before they are averaged: every rank's are alike."""
        return figures[_COUNT]


def take_fault(found: dict[str, float], names: list[str]) -> str:
    """Take the figures of a `GradientCheck` out of those of a step, the peak of an unharmed first gradient with them.

    Returns:
        What is wrong, in words that follow "at step N"; "" where nothing is, or nothing was counted.
    """
    count, first, peak = found.pop(_COUNT, 0.0), found.pop(_FIRST, 0.0), found.pop(_PEAK, 0.0)
    ranks = [int(name.removeprefix(_RANK)) for name in list(found) if name.startswith(_RANK)]
    bad_ranks = [rank for rank in ranks if found.pop(f"{_RANK}{rank}") > 0]
    if not count:
        return ""
    where = f" on rank {', '.join(map(str, bad_ranks or [0]))}" if bad_ranks or not ranks else " on no rank by itself"
    return f"{where}: {round(count)} of {len(names)} tensors, the first of them {names[round(first)]} with norm {peak}"


def is_skipped(found: Mapping[str, float]) -> bool:
    """Whether fp16's scaler left the step out: its gradients overflowed."""
    return found.get(_COUNT, 0.0) > 0
