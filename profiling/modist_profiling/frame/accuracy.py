"""How far a result is from its definition, as a line of the table of parity.py."""

import math
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
