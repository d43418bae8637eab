"""What a run directory says about its run; only RUN/metrics.jsonl must be there."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modist_fast.run.options import flat
from modist_fast.watch.budget import PHASES, WARM_UP_STEPS

Columns = dict[str, np.ndarray]
"""Float64 by key of metrics.jsonl, a value a step, NaN where a line has none; of nested keys as "spans.keys"."""

_OPTIONAL = {
    "budget.json": "a run writes it when it ends. Until then there is no verdict, and the figures above are rank 0's",
    "budget.jsonl": "a run writes a line every few steps. Without it the budget is rank 0's alone, from metrics.jsonl",
    "environment.json": "a run writes it when it begins",
    "config.json": "a run writes it when it begins",
    "clips.png": "a run draws it when it begins",
}


class ReportError(ValueError):
    """A run directory that no report can be made of."""


@dataclass(frozen=True)
class Run:
    name: str
    columns: Columns
    windows: list[dict[str, Any]]
    """Lines of budget.jsonl, without those of the warm-up; made of metrics.jsonl where there is none."""
    budget: dict[str, Any]
    """RUN/budget.json; {} where there is none or the run was too short for one."""
    environment: dict[str, Any]
    config: dict[str, Any]
    clips: bytes | None
    """The contact sheet as PNG."""
    missing: dict[str, str]
    """Files that are not there, each with where it comes from."""

    @property
    def phases(self) -> dict[str, dict[str, Any]]:
        """Mean seconds a step of each phase, its share, and seconds by rank; {} without any step past the warm-up."""
        return self.budget.get("phases") or mean_phases(self.windows)

    @property
    def seconds_per_step(self) -> float:
        """Mean past the warm-up; NaN without any such step."""
        return float(self.budget.get("seconds_per_step") or mean_seconds(self.windows))

    @property
    def batch_size(self) -> int:
        """Samples a step, over all ranks."""
        return round(float(np.median(self.columns["samples_per_s"] * self.columns["seconds"])))


def read_run(folder: Path) -> Run:
    """Read a run directory.

    Raises:
        ReportError: metrics.jsonl is absent, empty or damaged, or another file is damaged.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ReportError(
            f"{path} does not exist, so there is nothing to report. Give the --out of a modist pretrain that took "
            "at least one step."
        )
    columns = _columns(_lines(path, ("seconds", "samples_per_s")))
    if not columns:
        raise ReportError(f"{path} holds no whole line yet. Wait for the run's second step, then make the report.")
    if not columns.get("device_mb", np.zeros(1)).any():
        columns.pop("device_mb", None)  # a run on a CPU writes zeros
    budget_lines = folder / "budget.jsonl"
    if budget_lines.is_file():
        windows = _without_warm_up(list(_lines(budget_lines, ("num_steps", "seconds", "phases"))))
    else:
        windows = _windows_of_rows(columns)[WARM_UP_STEPS:]
    return Run(
        name=folder.resolve().name,
        columns=columns | _derived(columns),
        windows=windows,
        budget=_document(folder / "budget.json"),
        environment=_document(folder / "environment.json"),
        config=_document(folder / "config.json"),
        clips=_picture(folder / "clips.png"),
        missing={name: why for name, why in _OPTIONAL.items() if not (folder / name).is_file()},
    )


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is damaged: {error}. Remove it to have the report without it.") from error
    if not isinstance(found, dict):
        raise ReportError(f"{path} holds no JSON object. Remove it to have the report without it.")
    return found


def _picture(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError) as error:
        raise ReportError(f"{path} is damaged: {error}. Remove it to have the report without it.") from error
    return path.read_bytes()


def _lines(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The whole lines; a last one without its newline is being written, or was cut short by a kill."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                    raise ValueError("no JSON object with a step")
                absent = [name for name in needed if name not in row]
                if absent:
                    raise ValueError(f"no {absent[0]}")
            except ValueError as error:
                raise ReportError(
                    f"{path} is damaged in line {number}: {error}. Remove that line to report on the others, or "
                    "point to an intact copy."
                ) from error
            yield row


def _columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    # Compact columns: the dicts of a run of a million steps would not fit in memory.
    found: dict[str, array[float]] = {}
    num_rows = 0
    for num_rows, row in enumerate(rows, 1):
        for name, value in flat(row):
            if not isinstance(value, int | float):
                continue
            column = found.setdefault(name, array("d"))
            column.extend([np.nan] * (num_rows - 1 - len(column)))
            column.append(value)
    columns = {}
    for name, column in found.items():
        column.extend([np.nan] * (num_rows - len(column)))
        columns[name] = np.array(column)
    return columns


def _derived(columns: Columns) -> Columns:
    """Ratios that the page shows; each is averaged with its denominator as the weight, see `charts`."""
    nothing = np.full(len(columns["step"]), np.nan)

    def ratio(above: str, below: str) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return columns.get(above, nothing) / columns.get(below, nothing)

    return {
        "amplification": ratio("frames_decoded", "frames_used"),
        "bytes_ratio": ratio("bytes_read", "bytes_needed"),
        "bytes_per_s": ratio("bytes_read", "seconds"),
    }


def _windows_of_rows(columns: Columns) -> list[dict[str, Any]]:
    """Each step as a window of rank 0; [] where the lines hold no spans."""
    nothing = np.zeros(len(columns["step"]))
    if not any(name.startswith("spans.") for name in columns):
        return []
    phases = {name: np.nan_to_num(columns.get(f"spans.{name}", nothing)) for name in PHASES}
    phases["data_wait"] = np.nan_to_num(columns.get("data_wait", nothing) * columns["seconds"])
    phases["other"] = np.maximum(0, columns["seconds"] - sum(phases.values()))
    return [
        {
            "step": int(step),
            "num_steps": 1,
            "seconds": [float(columns["seconds"][row])],
            "phases": {name: [float(values[row])] for name, values in phases.items()},
        }
        for row, step in enumerate(columns["step"])
    ]


def _without_warm_up(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each start of a run begins with one short window of its own."""
    return [window for window in windows if window["num_steps"] != WARM_UP_STEPS]


def mean_phases(windows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Windows as the `phases` of a `RunBudget.summary`; {} for none. The number of ranks is the last window's."""
    if not windows:
        return {}
    num_ranks = len(windows[-1]["seconds"])
    same = [window for window in windows if len(window["seconds"]) == num_ranks]
    num_steps = sum(window["num_steps"] for window in same)
    per_step = mean_seconds(same)
    phases = {}
    for name in same[-1]["phases"]:
        by_rank = np.sum([window["phases"][name] for window in same], axis=0) / num_steps
        mean = float(by_rank.mean())
        phases[name] = {"seconds": mean, "share": mean / per_step, "by_rank": by_rank.tolist()}
    return phases


def mean_seconds(windows: list[dict[str, Any]]) -> float:
    """Seconds a step, over the ranks; NaN for no windows."""
    if not windows:
        return math.nan
    return sum(float(np.mean(window["seconds"])) for window in windows) / sum(w["num_steps"] for w in windows)
