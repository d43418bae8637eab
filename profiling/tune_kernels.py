"""Refresh the launch configurations of the kernels (kernels/modist_kernels/configurations.py).

    python profiling/tune_kernels.py                   # on a GPU: time the candidates, print entries to paste
    python profiling/tune_kernels.py --ahead-of-time   # anywhere: what the shipped entries use of each chip
    python profiling/tune_kernels.py --ahead-of-time --candidates --architecture 90

Nothing is tuned at start-up: a table keeps two runs identical, and a new Triton from silently choosing otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
import triton
import tyro

from modist_kernels.ahead_of_time import SHARED_MEMORY_LIMIT, Resources, compile_partial
from modist_kernels.configurations import (
    ARCHITECTURES,
    EDGES_ROWS,
    PARTIAL,
    EdgesConfiguration,
    PartialConfiguration,
    architecture,
    edges_warps,
)
from modist_kernels.flow_edges_triton import forward as edges_forward
from modist_kernels.queue_infonce_triton import SUPPORTED_DIMS
from modist_kernels.queue_infonce_triton import forward as loss_forward
from modist_profiling.benchmark import interleave, percentile

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
    architecture: int | None = None
    """With --ahead-of-time: one of 80, 89, 90, 100, 120; all by default."""
    rounds: int = 30


def candidates(block_rows: int, dim: int, programs: tuple[int, ...]) -> Iterator[PartialConfiguration]:
    """Tiles from wide to narrow, with the deepest pipeline first."""
    for size, warps, stages in product(sorted(BYTES_OF_A_TILE, reverse=True), (4, 8), (4, 3, 2)):
        negatives = size // (2 * dim)
        if negatives >= 16:
            for count in programs:
                yield PartialConfiguration(block_rows, negatives, warps, stages, count)


def fits(used: Resources, arch: int) -> bool:
    return used.spills == 0 and used.shared <= SHARED_MEMORY_LIMIT[arch]


def print_ahead_of_time(options: Options) -> None:
    for arch, dim in product((options.architecture,) if options.architecture else ARCHITECTURES, SUPPORTED_DIMS):
        shipped = PARTIAL[arch, dim]
        entries = shipped
        if options.candidates:
            entries = [entry for rows in BLOCK_ROWS for entry in candidates(rows, dim, (0,))]
        for entry in entries:
            used = [
                compile_partial(entry, arch, dim, *kind) for kind in (("fp32", False), ("fp16", False), ("fp32", True))
            ]
            verdict = "fits" if all(fits(u, arch) for u in used) else "SPILLS OR DOES NOT FIT"
            tile = f"rows {entry.block_rows:3} negatives {entry.block_negatives:3} warps {entry.num_warps}"
            print(f"sm_{arch} C {dim:3} {tile} stages {entry.num_stages}: {verdict}; fp32 queries {used[0]}")


def tune_loss(arch: int, device: torch.device, rounds: int) -> None:
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    programs = tuple(round(multiprocessors * share) for share in (0.67, 1, 2))
    for dim in SUPPORTED_DIMS:
        best = []
        for block_rows in BLOCK_ROWS:
            queries, keys, bank, bank_ids, ids = _loss_inputs(block_rows, dim, device)
            fixed = (queries, keys, bank, bank_ids, ids, 0.1, "own")
            entries = {
                repr(e): e for e in candidates(block_rows, dim, programs) if fits(compile_partial(e, arch, dim), arch)
            }
            if entries:
                runs = {name: partial(loss_forward, *fixed, entry) for name, entry in entries.items()}
                times = interleave(runs, rounds, 60, device, cold=True)
                fastest = min(entries, key=lambda name: percentile(times[name], 0.5))
                best.append((entries[fastest], percentile(times[fastest], 0.5)))
        print(f"({arch}, {dim}): [")
        for entry, milliseconds in best:
            print(f"    {entry},  # {milliseconds * 1e3:.1f} µs at B {entry.block_rows}, N {NUM_NEGATIVES}, cold L2")
        print("],")


def _loss_inputs(batch: int, dim: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, device=device), dim=-1)

    bank_ids = torch.arange(NUM_NEGATIVES, device=device, dtype=torch.int32)
    ids = torch.arange(batch, device=device, dtype=torch.int32)
    return unit(2, batch, dim), unit(2, batch, dim), unit(2, NUM_NEGATIVES, dim).half(), bank_ids, ids


def tune_edges(device: torch.device, rounds: int) -> None:
    """Which height of strips is fastest for how many frames; EDGES_PROGRAMS and EDGES_ROWS follow from it."""

    def run(flow: torch.Tensor, rows: int) -> None:
        configuration = EdgesConfiguration(rows, edges_warps(flow.shape[-1]))
        edges_forward(flow, "chw", 1.0, "replicate", 10.0, 1.0, torch.uint8, configuration)

    for frames in (1, 16, 512):
        flow = torch.randn(frames, 2, 224, 224, device=device).half()
        heights = range(EDGES_ROWS[0], EDGES_ROWS[1] + 1, 8)
        times = interleave({str(rows): partial(run, flow, rows) for rows in heights}, rounds, 30, device, cold=True)
        line = ", ".join(f"{rows} rows {percentile(values, 0.5) * 1e3:.1f} µs" for rows, values in times.items())
        print(f"# edges of {frames} frames, 224 x 224: {line}")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.ahead_of_time:
        return print_ahead_of_time(options)
    if not torch.cuda.is_available():
        raise SystemExit("Timing candidates needs a CUDA device. --ahead-of-time works without one.")
    device = torch.device("cuda", torch.cuda.current_device())
    arch = architecture(device)
    name = torch.cuda.get_device_name(device)
    print(f"# {name}, torch {torch.__version__}, Triton {triton.__version__}; paste into PARTIAL, and say so there")
    tune_loss(arch, device, options.rounds)
    tune_edges(device, options.rounds)
    return None


if __name__ == "__main__":
    main()
