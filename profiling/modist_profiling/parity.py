"""How far the kernels and the clips' graphs are from their float64 definitions on this machine, as a table.

    python profiling/parity.py                                 # the GPU if there is one, else the CPU paths
    python profiling/parity.py --device cuda --json parity.json

Exits with 1 where a figure is beyond its bound.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from modist_fast.commands.cli import run_cli
from modist_fast.errors import ConfigError
from modist_profiling.data.parity import clip_parity
from modist_profiling.frame import Parity, environment, print_figures
from modist_profiling.kernels.parity import edges_parity, loss_cases, loss_parity


@dataclass(frozen=True)
class Options:
    """Errors of kernels and graphs against float64."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num: int = 65536
    """Keys in each bank."""
    size: int = 224
    """Side of the frames of flow."""
    clips: int = 24
    """Clips of each kind."""
    json: Path | None = None


def measure(options: Options, device: torch.device) -> list[Parity]:
    figures = [figure for case in loss_cases(options.num) for figure in loss_parity(case, device)]
    figures += edges_parity(options.size, device)
    for kind in ("visual", "motion"):
        figures += clip_parity(kind, device, options.clips)
    return figures


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here. Leave --device out to compare the CPU paths.")
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    figures = measure(options, device)
    print_figures(figures)
    beyond = [figure for figure in figures if not figure.holds]
    print(f"\n{len(figures)} figures on {device}, {len(beyond)} beyond their bounds")
    if options.json:
        rows = [figure._asdict() | {"holds": figure.holds} for figure in figures]
        record = {"device": name, "figures": rows, "environment": environment(device)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if beyond else 0


if __name__ == "__main__":
    run_cli(main)
