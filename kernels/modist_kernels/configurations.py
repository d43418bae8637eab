"""Launch configurations of the kernels by architecture and shape class. Looked up, never searched at start-up.

They stand in configurations.json, an entry a line, each for Triton from its `triton` on, up to the next entry for the
same tile: what one version fits into the registers, another spills. `timed` names the GPU and the versions that an
entry was timed on, by `python profiling/tune_kernels.py --write`. All others were chosen on a machine without a GPU
from code compiled ahead of time for each chip: of a list of tiles from wide to narrow, the first without spills and
within the shared memory (`python profiling/tune_kernels.py --ahead-of-time` repeats it; tests/kernels/test_budgets.py
holds the result).
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

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
    """Programs to share the bank among; each writes a partial sum of the size of its queries. One a multiprocessor;
    up to 32 rows fewer, for the pass waits for memory there and fewer write less."""


@dataclass(frozen=True)
class EdgesConfiguration:
    """How flow_edges cuts up a frame."""

    rows_per_strip: int
    """Two more rows are read for every strip but the outer ones."""
    num_warps: int


def triton_version(text: str) -> tuple[int, int]:
    """Major and minor version: (3, 8) of "3.8.0"."""
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def partial_table(
    entries: Iterable[Mapping[str, Any]], version: str
) -> dict[tuple[int, int], list[PartialConfiguration]]:
    """What holds for a version of Triton.

    Args:
        entries: those of queue_infonce in configurations.json.
        version: such as "3.8.0".

    Returns:
        (architecture, C) to configurations by rising block_rows.

    Raises:
        ValueError: the version is older than all entries.
    """
    newest = {}
    for entry in sorted(entries, key=lambda entry: triton_version(entry["triton"])):
        if triton_version(entry["triton"]) <= triton_version(version):
            newest[entry["architecture"], entry["dim"], entry["block_rows"]] = entry
    if not newest:
        raise ValueError(f"{TABLE_PATH.name} has no entries for Triton {version}: install a newer one, 3.6 or later.")
    names = [field.name for field in fields(PartialConfiguration)]
    table: dict[tuple[int, int], list[PartialConfiguration]] = {}
    for arch, dim, rows in sorted(newest):
        entry = newest[arch, dim, rows]
        table.setdefault((arch, dim), []).append(PartialConfiguration(*(entry[name] for name in names)))
    return table


TABLE_PATH = Path(__file__).with_suffix(".json")
_CONTENT = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
PARTIAL = partial_table(_CONTENT["queue_infonce"], triton.__version__)
# One-warp programs that keep a chip busy with flow_edges: 16 on each multiprocessor.
EDGES_PROGRAMS = {entry["architecture"]: entry["num_programs"] for entry in _CONTENT["flow_edges"]}
EDGES_ROWS = (8, 56)  # least and most rows of a strip; 56 rows read 2 % more than they need, 8 rows 25 %


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
