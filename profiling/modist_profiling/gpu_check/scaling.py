"""The stages `scaling-N` of gpu_check.py: a run's budget against limits that were set before any GPU ran it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modist_fast.watch.budget import table as budget_table
from modist_profiling.frame.report import table
from modist_profiling.gpu_check.findings import Findings

LIMITS = {
    "peak_share": (">=", 0.30),
    "data_wait_share": ("<=", 0.01),
    "weak_scaling": (">=", 0.92),
    "speedup_vs_plain": (">=", 2.0),
}
"""Share of what a bf16 matrix product reaches; of a step; samples/s of a GPU against those of one alone, and of a GPU
against the plain step of bench_step.py."""


def figures_of(budget: dict[str, Any], alone: dict[str, Any] | None, plain: float | None) -> dict[str, Any]:
    """What a run is judged by.

    Args:
        budget: RUN/budget.json.
        alone: that of the run on one GPU, None where there is none.
        plain: samples/s of the plain step on one GPU, None where it was not measured.
    """
    rate = budget["samples_per_s"] / budget["world_size"]
    return {
        "samples_per_s": budget["samples_per_s"],
        "peak_share": budget["flops"]["peak_share"],
        "data_wait_share": budget["phases"]["data_wait"]["share"],
        "exposed_all_reduce_share": budget["phases"]["all_reduce"]["share"],
        "weak_scaling": rate / alone["samples_per_s"] if alone else None,
        "speedup_vs_plain": rate / plain if plain else None,
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """The limits that the figures do not keep; NaN keeps none, and what was not measured is not judged."""
    found = []
    for name, (sign, limit) in LIMITS.items():
        value = figures[name]
        if value is not None and not (value >= limit if sign == ">=" else value <= limit):
            found.append(f"{name} {value:.3g}, to be {sign} {limit:g}")
    return found


def scaling(name: str, judge: bool) -> Callable[[Path], Findings]:
    """Reader of the run `name`, beside it those that it is compared with: scaling-1 and bench-step.json.

    Args:
        judge: whether missed limits are problems; on a CPU they mean nothing.
    """

    def read(folder: Path) -> Findings:
        def load(path: str) -> Any:
            return json.loads((folder / path).read_text(encoding="utf-8")) if (folder / path).is_file() else None

        budget = load(f"{name}/budget.json")
        if not budget:
            return Findings(problems=["too few steps for a step budget"])
        bench = load("bench-step.json")
        rows = [row for row in bench["rows"] if row["name"] == "plain"] if bench else []
        plain = 1e3 * rows[0]["spec"]["batch"] / rows[0]["median"] if rows else None
        figures = figures_of(budget, load("scaling-1/budget.json"), plain)
        shown = [
            (key, "not measured" if value is None else f"{value:.4g}", " ".join(map(str, LIMITS.get(key, ()))))
            for key, value in figures.items()
        ]
        text = f"{table(('figure', 'here', 'to be'), shown)}\n\n```\n{budget_table(budget)}\n{budget['verdict']}\n```"
        return Findings(figures, text, missed(figures) if judge else [])

    return read
