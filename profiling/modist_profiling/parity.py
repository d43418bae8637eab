"""Figures of a comparison with a float64 reference, each beside the bound that it must keep."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Parity(NamedTuple):
    """One figure."""

    what: str
    """The kernel or graph, and which of its results."""
    case: str
    """Shape, types and options."""
    against: str
    error: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """False for NaN as well."""
        return self.error <= self.bound


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in float64; infinite where only one side is infinite or NaN."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    difference = torch.where(same, 0.0, (found - expected).abs())
    return float(difference.nan_to_num(nan=math.inf, posinf=math.inf).max()) if difference.numel() else 0.0


def print_figures(figures: Sequence[Parity]) -> None:
    """A table; a figure beyond its bound says so."""
    what, case = (2 + max(len(getattr(figure, name)) for figure in figures) for name in ("what", "case"))
    print(f"{'':{what}}{'case':{case}}{'error':>10}{'bound':>10}  unit")
    for figure in figures:
        cells = f"{figure.error:10.2e}{figure.bound:10.2e}  {figure.unit}"
        print(f"{figure.what:{what}}{figure.case:{case}}{cells}{'' if figure.holds else '   BEYOND ITS BOUND'}")
