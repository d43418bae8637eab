"""Launch configurations of the kernels by architecture and shape class. Looked up, never searched at start-up.

Provenance: `TIMED` names the entries that were timed on a GPU, by `python profiling/tune_kernels.py --write`. All
others were chosen on a machine without a GPU from code that Triton 3.8 compiled ahead of time for each chip: of a
list of tiles from wide to narrow, the first without spills and within the shared memory
(`python profiling/tune_kernels.py --ahead-of-time` repeats it; tests/kernels/test_budgets.py holds the result).
"""

import logging
from dataclasses import dataclass
from functools import cache

import torch

logger = logging.getLogger("modist")

ARCHITECTURES = (80, 89, 90, 100, 120)
# Chips that the tables do not name, by the one they resemble: 8.6 and 8.7 have the shared memory of 8.9.
_RESEMBLES = {86: 89, 87: 89, 101: 100, 103: 100, 110: 100, 121: 120}


@dataclass(frozen=True)
class PartialConfiguration:
    """How queue_infonce cuts up its pass over the bank."""

    block_rows: int
    """Query rows of a tile."""
    block_negatives: int
    """Bank rows of a tile."""
    num_warps: int
    num_stages: int
    """Bank tiles in flight."""
    num_programs: int
    """Programs to share the bank among; each writes a partial sum of the size of its queries."""


@dataclass(frozen=True)
class EdgesConfiguration:
    """How flow_edges cuts up a frame."""

    rows_per_strip: int
    """Two more rows are read for every strip but the outer ones."""
    num_warps: int


def _table(programs: int, programs_small: int, *tiles: tuple[int, int, int, int]) -> list[PartialConfiguration]:
    """Up to 32 rows the pass waits for memory, and fewer programs write fewer partial sums; above, it computes."""
    return [PartialConfiguration(*tile, programs_small if tile[0] <= 32 else programs) for tile in tiles]


# (architecture, C) to configurations by rising block_rows. Multiprocessors: A100 108, RTX 4090 128, H100 132,
# B200 148, RTX 5090 170.
PARTIAL: dict[tuple[int, int], list[PartialConfiguration]] = {
    (80, 64): _table(108, 88, (16, 256, 4, 3), (32, 256, 4, 3), (64, 128, 4, 4), (128, 128, 8, 3)),
    (80, 128): _table(108, 88, (16, 128, 4, 3), (32, 128, 4, 3), (64, 128, 4, 3), (128, 64, 8, 4)),
    (80, 256): _table(108, 88, (16, 64, 8, 3), (32, 64, 4, 3), (64, 64, 4, 3)),
    (89, 64): _table(128, 88, (16, 256, 4, 3), (32, 256, 4, 3), (64, 128, 4, 4), (128, 128, 8, 3)),
    (89, 128): _table(128, 88, (16, 128, 4, 3), (32, 128, 4, 3), (64, 64, 4, 4), (128, 64, 8, 3)),
    (89, 256): _table(128, 88, (16, 64, 4, 3), (32, 64, 4, 2), (64, 32, 4, 2)),
    (90, 64): _table(132, 88, (16, 256, 4, 3), (32, 256, 4, 3), (64, 256, 8, 3), (128, 64, 4, 4)),
    (90, 128): _table(132, 88, (16, 128, 4, 3), (32, 128, 8, 3), (64, 128, 4, 3), (128, 64, 8, 4)),
    (90, 256): _table(132, 88, (16, 64, 4, 3), (32, 64, 4, 3), (64, 64, 8, 2)),
    (100, 64): _table(148, 148, (16, 256, 4, 3), (32, 256, 8, 3), (64, 128, 8, 3), (128, 64, 4, 4)),
    (100, 128): _table(148, 148, (16, 128, 4, 3), (32, 128, 8, 3), (64, 128, 8, 3), (128, 64, 8, 4)),
    (100, 256): _table(148, 148, (16, 64, 4, 3), (32, 64, 8, 3), (64, 64, 8, 3)),
    (120, 64): _table(170, 88, (16, 256, 4, 3), (32, 256, 8, 3), (64, 64, 4, 4)),
    (120, 128): _table(170, 88, (16, 128, 4, 3), (32, 128, 8, 3), (64, 64, 4, 4)),
    (120, 256): _table(170, 88, (16, 64, 4, 3), (32, 64, 8, 2), (64, 32, 8, 2)),
}

# One-warp programs that keep a chip busy with flow_edges: 16 on each multiprocessor.
EDGES_PROGRAMS = {80: 1728, 89: 2048, 90: 2112, 100: 2368, 120: 2720}
EDGES_ROWS = (8, 56)  # least and most rows of a strip; 56 rows read 2 % more than they need, 8 rows 25 %

# (architecture, "C 128" or the like, or "edges") to the GPU and the versions that its entries were timed on.
TIMED: dict[tuple[int, str], str] = {}


def partial_configuration(arch: int, rows: int, dim: int) -> PartialConfiguration:
    """The smallest tile that holds `rows` query rows, or the largest there is."""
    table = PARTIAL[arch, dim]
    return next((entry for entry in table if entry.block_rows >= rows), table[-1])


def edges_configuration(
    arch: int, frames: int, height: int, width: int, programs: int | None = None
) -> EdgesConfiguration:
    """Strips as high as the number of frames allows, and of equal height; `programs` in place of the table's."""
    least, most = EDGES_ROWS
    wanted = -(-(programs or EDGES_PROGRAMS[arch]) // max(1, frames))
    strips = min(max(wanted, -(-height // most)), -(-height // least))
    return EdgesConfiguration(rows_per_strip=-(-height // strips), num_warps=edges_warps(width))


def edges_warps(width: int) -> int:
    """Eight pixels of a row for each lane."""
    return max(1, (1 << (width - 1).bit_length()) // 256)


@cache
def architecture(device: torch.device) -> int:
    """The entry of the tables for the chip of a CUDA device.

    Raises:
        ValueError: a chip older than sm_80.
    """
    if device.type != "cuda":
        return 90  # the interpreter takes any
    major, minor = torch.cuda.get_device_capability(device)
    capability = major * 10 + minor
    if capability < ARCHITECTURES[0]:
        raise ValueError(
            f"The Triton kernels need compute capability 8.0 or newer, and {device} has {major}.{minor}. "
            "Set MODIST_KERNELS_BACKEND=reference to run their plain torch definitions."
        )
    known = [arch for arch in ARCHITECTURES if arch <= capability]
    chosen = _RESEMBLES.get(capability, known[-1])
    if chosen != capability:
        logger.info("no kernel configurations for sm_%d: taking those of sm_%d", capability, chosen)
    return chosen
