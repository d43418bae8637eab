"""How far the kernels and the clips' graphs are from their float64 definitions on this machine, as a table.

    modist parity                                 # the GPU if there is one, else the CPU paths
    modist parity --device cuda --json parity.json

Exits with 1 where a figure is beyond its bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from modist_fast.commands.cli import parse_options, run_cli
from modist_pipelines.ranges import COUNT, ranged
from modist_profiling.data.parity import clip_parity
from modist_profiling.frame.accuracy import Parity
from modist_profiling.frame.report import conditions, find_device, table, write_json
from modist_profiling.kernels.parity import edges_parity, loss_cases, loss_parity


@dataclass(frozen=True)
class Options:
    """Errors of kernels and graphs against float64."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    num: int = ranged(65536, COUNT)
    """Keys in each bank."""
    size: int = ranged(224, COUNT)
    """Side of the frames of flow."""
    clips: int = ranged(24, COUNT)
    """Clips of each kind."""
    json: Path | None = None
    """File that takes the differences."""


def measure(options: Options, device: torch.device) -> list[Parity]:
    figures = [figure for case in loss_cases(options.num) for figure in loss_parity(case, device)]
    figures += edges_parity(options.size, device)
    for kind in ("visual", "motion"):
        figures += clip_parity(kind, device, options.clips)
    return figures


def print_figures(figures: Sequence[Parity]) -> None:
    """A table; a figure beyond its bound says so."""
    lines = [
        (one.what, one.case, f"{one.error:.2e}", f"{one.bound:.2e}", one.unit, "" if one.holds else "BEYOND ITS BOUND")
        for one in figures
    ]
    print(table(("result", "case", "error", "bound", "unit", ""), lines))


def main() -> int:
    options = parse_options(Options, description=__doc__)
    device = find_device(options.device)
    figures = measure(options, device)
    print_figures(figures)
    beyond = [figure for figure in figures if not figure.holds]
    print(f"\n{len(figures)} figures on {device}, {len(beyond)} beyond their bounds")
    if options.json:
        rows = [figure._asdict() | {"holds": figure.holds} for figure in figures]
        write_json(options.json, rows, {}, conditions(device))
    return 1 if beyond else 0


if __name__ == "__main__":
    run_cli(main)
