"""Refresh the launch configurations of the kernels (kernels/modist_kernels/configurations.json).

    modist tune-kernels --write           # on a GPU: time the candidates, take over the fastest
    modist tune-kernels --json table.json # the same into a file, which elsewhere
    modist tune-kernels --entries table.json --write   # takes over
    modist tune-kernels --ahead-of-time   # anywhere: what the shipped entries use of each chip
    modist tune-kernels --ahead-of-time --candidates --architecture 90

Nothing is tuned at start-up: a table keeps two runs identical, and a new Triton from silently choosing otherwise.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton

from modist_fast.commands.cli import parse_options
from modist_fast.errors import ConfigError
from modist_kernels.configurations import (
    ARCHITECTURES,
    EDGES_PROGRAMS,
    PARTIAL,
    TABLE_PATH,
    PartialConfiguration,
    architecture,
    edges_configuration,
    partial_configuration,
    triton_version,
)
from modist_kernels.flow_edges.kernels import forward as edges_forward
from modist_kernels.queue_infonce.launches import SUPPORTED_DIMS
from modist_kernels.queue_infonce.launches import forward as loss_forward
from modist_pipelines.ranges import COUNT, ranged
from modist_profiling.kernels.ahead_of_time import SHARED_MEMORY_LIMIT, Resources, compile_partial
from modist_profiling.kernels.table import Table, read_table, taken_over, write_table
from modist_profiling.kernels.turns import interleave

BLOCK_ROWS = (16, 32, 64, 128)
BYTES_OF_A_TILE = (8192, 16384, 32768)
NUM_NEGATIVES = 65536


@dataclass(frozen=True)
class Options:
    """Refresh the launch configurations of the kernels."""

    ahead_of_time: bool = False
    """Compile for chips that are not here, and print registers, spills, shared memory and instructions."""
    candidates: bool = False
    """With --ahead-of-time: all candidates, not only the shipped entries."""
    architecture: int | None = ranged(None, COUNT)
    """With --ahead-of-time: one of 80, 89, 90, 100, 120; all by default."""
    dims: tuple[int, ...] = ranged(SUPPORTED_DIMS, COUNT)
    """C of the queries."""
    block_rows: tuple[int, ...] = ranged(BLOCK_ROWS, COUNT)
    """Query rows of a tile."""
    rounds: int = ranged(30, COUNT)
    """Turns of each configuration."""
    json: Path | None = None
    """Write what was found into this file."""
    entries: Path | None = None
    """Time nothing; take the entries of such a file."""
    write: bool = False
    """Take what was found over into kernels/modist_kernels/configurations.json."""


def candidates(block_rows: int, dim: int, programs: tuple[int, ...]) -> Iterator[PartialConfiguration]:
    """Tiles from wide to narrow, with the deepest pipeline first."""
    for size, warps, stages in product(sorted(BYTES_OF_A_TILE, reverse=True), (4, 8), (4, 3, 2)):
        negatives = size // (2 * dim)
        if negatives >= 16:
            for count in programs:
                yield PartialConfiguration(block_rows, negatives, warps, stages, count)


def compiled(entry: PartialConfiguration, arch: int, dim: int) -> list[Resources]:
    """For fp32 and fp16 queries, and for queries of both modalities."""
    return [compile_partial(entry, arch, dim, *kind) for kind in (("fp32", False), ("fp16", False), ("fp32", True))]


def fits(used: Resources, arch: int) -> bool:
    return used.spills == 0 and used.shared <= SHARED_MEMORY_LIMIT[arch]


def print_ahead_of_time(options: Options) -> None:
    for arch, dim in product((options.architecture,) if options.architecture else ARCHITECTURES, options.dims):
        entries = [entry for entry in PARTIAL[arch, dim] if entry.block_rows in options.block_rows]
        if options.candidates:
            entries = [entry for rows in options.block_rows for entry in candidates(rows, dim, (0,))]
        for entry in entries:
            used = compiled(entry, arch, dim)
            verdict = "fits" if all(fits(u, arch) for u in used) else "SPILLS OR DOES NOT FIT"
            tile = f"rows {entry.block_rows:3} negatives {entry.block_negatives:3} warps {entry.num_warps}"
            print(f"sm_{arch} C {dim:3} {tile} stages {entry.num_stages}: {verdict}; fp32 queries {used[0]}")


def tune_loss(arch: int, device: torch.device, options: Options) -> Iterator[dict[str, Any]]:
    """Entries of the fastest tile for each C and number of query rows, where one fits the chip."""
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    programs = tuple(round(multiprocessors * share) for share in (0.67, 1, 2))
    for dim, block_rows in product(options.dims, options.block_rows):
        inputs = _loss_inputs(block_rows, dim, device)
        tiles = {
            tile for tile in candidates(block_rows, dim, (0,)) if all(fits(u, arch) for u in compiled(tile, arch, dim))
        }
        entries = [e for e in candidates(block_rows, dim, programs) if replace(e, num_programs=0) in tiles]
        if not entries:
            continue
        shipped = partial_configuration(arch, block_rows, dim)
        runs = {repr(entry): partial(loss_forward, *inputs, 0.1, "own", entry) for entry in [*entries, shipped]}
        times = interleave(runs, options.rounds, 60, device, cold=True)
        medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
        fastest = min(entries, key=lambda entry: medians[repr(entry)])
        took = {"microseconds": round(medians[repr(fastest)], 2)}
        took["shipped_microseconds"] = round(medians[repr(shipped)], 2)
        yield {"dim": dim} | asdict(fastest) | took


def _loss_inputs(batch: int, dim: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, device=device), dim=-1)

    bank_ids = torch.arange(NUM_NEGATIVES, device=device, dtype=torch.int32)
    ids = torch.arange(batch, device=device, dtype=torch.int32)
    return unit(2, batch, dim), unit(2, batch, dim), unit(2, NUM_NEGATIVES, dim).half(), bank_ids, ids


def tune_edges(arch: int, device: torch.device, rounds: int) -> tuple[int, dict[str, dict[str, float]]]:
    """How many programs flow_edges should aim at, and the microseconds for each number of frames and programs."""

    def run(flow: torch.Tensor, programs: int) -> None:
        configuration = edges_configuration(arch, *_frames_height_width(flow), programs)
        edges_forward(flow, "chw", 1.0, "replicate", 10.0, 1.0, torch.uint8, configuration)

    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = sorted({EDGES_PROGRAMS[arch], *(multiprocessors * share for share in (4, 8, 16, 32))})
    table: dict[str, dict[str, float]] = {}
    for frames in (1, 16, 512):
        flow = torch.randn(frames, 2, 224, 224, device=device).half()
        times = interleave({str(n): partial(run, flow, n) for n in wanted}, rounds, 30, device, cold=True)
        table[str(frames)] = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return best_programs(table), table


def _frames_height_width(flow: torch.Tensor) -> tuple[int, int, int]:
    frames, _, height, width = flow.shape
    return frames, height, width


def best_programs(table: dict[str, dict[str, float]]) -> int:
    """The number that is fastest over all numbers of frames, each of which counts as much as another."""
    names = next(iter(table.values()))
    return int(min(names, key=lambda name: statistics.geometric_mean([times[name] for times in table.values()])))


def measure(options: Options) -> Table:
    """Time the candidates on the GPU at hand.

    Raises:
        ConfigError: there is none.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "Timing candidates needs a CUDA device. Without one, --ahead-of-time compiles them, and --entries FILE "
            "takes over what was timed elsewhere."
        )
    device = torch.device("cuda", torch.cuda.current_device())
    arch = architecture(device)
    timed = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, Triton {triton.__version__}"
    head = {"architecture": arch, "triton": "{}.{}".format(*triton_version(triton.__version__)), "timed": timed}
    programs, microseconds = tune_edges(arch, device, options.rounds)
    edges = head | {"num_programs": programs, "microseconds": microseconds}
    return {"queue_infonce": [head | one for one in tune_loss(arch, device, options)], "flow_edges": [edges]}


def print_table(table: Table) -> None:
    print(f"B = block_rows, N {NUM_NEGATIVES}, cold L2")
    for name, entries in table.items():
        for entry in entries:
            print(name, ", ".join(f"{key} {value}" for key, value in entry.items()))


def main() -> None:
    options = parse_options(Options, description=__doc__)
    if options.ahead_of_time:
        return print_ahead_of_time(options)
    table = read_table(options.entries) if options.entries else measure(options)
    print_table(table)
    if options.json:
        write_table(options.json, table)
    if options.write:
        write_table(TABLE_PATH, taken_over(read_table(TABLE_PATH), table))
        print(f"{TABLE_PATH.name}: taken over. Now: python -m pytest tests/kernels")
    return None
