"""The step budget out of Nsight Systems: `nsys stats` tables to phases, by rank.

modist nsys-budget RUN/profile [--json FILE]
"""

import argparse
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist_fast.commands.cli import Parser
from modist_fast.errors import ConfigError
from modist_fast.watch.budget import PHASES, phase_lines

REPORTS = ("nvtx_pushpop_sum", "nvtx_gpu_proj_sum", "cuda_gpu_kern_sum")
"""What `nsys stats` has to make of a report: nsys-rankR_<report>.csv each."""
_DOMAIN = "modist:"  # what spans.py names its ranges in


@dataclass(frozen=True)
class RankStats:
    """One process's tables."""

    rank: int
    host: dict[str, tuple[float, int]]
    """Range to seconds on the host and number of ranges."""
    device: dict[str, tuple[float, int]]
    """Range to seconds that its work took on the device, and number of GPU operations."""
    kernels: list[tuple[str, float, int]]
    """Name, seconds and launches, longest first."""

    @property
    def num_steps(self) -> int:
        return self.host["step"][1]


def read_stats(folder: Path) -> list[RankStats]:
    """Read the tables of all ranks in a folder.

    Raises:
        ConfigError: there are none, or one lacks the ranges of the training step.
    """
    ranks = {}
    for path in folder.glob(f"nsys-rank*_{REPORTS[0]}.csv"):
        match = re.match(r"nsys-rank(\d+)_", path.name)
        assert match is not None
        ranks[int(match[1])] = path.name.removesuffix(f"_{REPORTS[0]}.csv")
    if not ranks:
        raise ConfigError(
            f"{folder} holds no nsys-rankR_{REPORTS[0]}.csv. Make them with profiling/nsys_pretrain.sh, or with "
            f"nsys stats --report {','.join(REPORTS)} --format csv --output FOLDER/nsys-rankR REPORT.nsys-rep"
        )
    return [_read_rank(folder, rank, base) for rank, base in sorted(ranks.items())]


def _read_rank(folder: Path, rank: int, base: str) -> RankStats:
    host_rows, device_rows, kernel_rows = (_rows(folder / f"{base}_{report}.csv") for report in REPORTS)
    host = {
        name: (_nanoseconds(row["Total Time (ns)"]), int(row["Instances"]))
        for row in host_rows
        if (name := _own(row["Range"]))
    }
    if "step" not in host:
        raise ConfigError(
            f"{folder}/{base}_{REPORTS[0]}.csv has no range {_DOMAIN}step: nothing was recorded while the run "
            "trained. Pass --profile.cuda-window, and a --max-steps beyond --profile.start."
        )
    device = {
        name: (_nanoseconds(row["Total Proj Time (ns)"]), int(float(row["Total GPU Ops"])))
        for row in device_rows
        if (name := _own(row["Range"]))
    }
    kernels = [(row["Name"], _nanoseconds(row["Total Time (ns)"]), int(row["Instances"])) for row in kernel_rows]
    return RankStats(rank, host, device, sorted(kernels, key=lambda kernel: -kernel[1]))


def _rows(path: Path) -> list[dict[str, str]]:
    """The table in a file. What nsys has to say comes before the header; a file without data has none."""
    if not path.exists():
        raise ConfigError(f"{path} is missing: run nsys stats with --report {','.join(REPORTS)}.")
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(("Range,", "Time (%),"))), len(lines))
    return list(csv.DictReader(lines[start:]))


def _own(name: str) -> str:
    return name.removeprefix(_DOMAIN) if name.startswith(_DOMAIN) else ""


def _nanoseconds(text: str) -> float:
    return float(text.replace(",", "")) / 1e9


def phases_of(ranks: Sequence[RankStats]) -> dict[str, dict[str, Any]]:
    """The budget's phases, as `RunBudget.summary` has them: seconds a step, shares, and seconds by rank.

    A phase's time is its work's on the device, `data_wait` the host's; `other` is when the device did nothing of
    the step's.
    """
    by_rank: dict[str, list[float]] = {name: [] for name in (*PHASES, "other")}
    totals = []
    for stats in ranks:
        num_steps = stats.num_steps
        wait = stats.host.get("data_wait", (0.0, 0))[0] / num_steps
        total = stats.host["step"][0] / num_steps + wait
        seconds = {name: stats.device.get(name, (0.0, 0))[0] / num_steps for name in PHASES} | {"data_wait": wait}
        seconds["other"] = max(0.0, total - sum(seconds.values()))
        totals.append(total)
        for name, value in seconds.items():
            by_rank[name].append(value)
    per_step = sum(totals) / len(totals)
    return {
        name: {
            "seconds": sum(values) / len(values),
            "share": sum(values) / len(values) / per_step,
            "by_rank": values,
        }
        for name, values in by_rank.items()
    }


def table(ranks: Sequence[RankStats], num_kernels: int = 10) -> str:
    """The budget for people: phases, GPU operations a step, communication, the longest kernels of rank 0."""
    phases = phases_of(ranks)
    first = ranks[0]
    seconds = sum(phase["seconds"] for phase in phases.values())
    lines = [f"step budget by nsys: {first.num_steps} steps of {len(ranks)} processes, {1e3 * seconds:.1f} ms a step"]
    lines += phase_lines(phases)
    launches = sum(count for name, (_, count) in first.device.items() if name in PHASES) / first.num_steps
    lines.append(f"  {launches:.0f} GPU operations a step on rank {first.rank}")
    nccl = sum(seconds for name, seconds, _ in first.kernels if name.startswith("ncclDevKernel")) / first.num_steps
    lines.append(f"  nccl kernels: {1e3 * nccl:.2f} ms a step, hidden behind other work or not")
    lines.append("  longest kernels:")
    lines += [
        f"    {1e3 * seconds / first.num_steps:8.3f} ms {launched / first.num_steps:6.0f} × {_short(name)}"
        for name, seconds, launched in first.kernels[:num_kernels]
    ]
    return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def as_json(ranks: Sequence[RankStats]) -> Mapping[str, Any]:
    """What `table` shows."""
    return {
        "num_steps": ranks[0].num_steps,
        "world_size": len(ranks),
        "phases": phases_of(ranks),
        "kernels": [{"name": name, "seconds": seconds, "launches": count} for name, seconds, count in ranks[0].kernels],
    }


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds nsys-rankR_*.csv, as profiling/nsys_pretrain.sh makes them")
    parser.add_argument("--json", type=Path, help="write the budget here too")
    options = parser.parse_args()
    ranks = read_stats(options.folder)
    print(table(ranks))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(ranks), indent=1) + "\n", encoding="utf-8")
