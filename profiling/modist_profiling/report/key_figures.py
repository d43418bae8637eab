"""The figures that a run is remembered by, each with how it was taken."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from modist_fast.watch.budget import WARM_UP_STEPS
from modist_profiling.report.runs import Run
from modist_profiling.report.svg import number


@dataclass(frozen=True)
class KeyFigure:
    name: str
    label: str
    unit: str
    value: Callable[[Run], float]
    """NaN where a run does not know it."""
    note: Callable[[Run], str] = lambda run: ""
    compare: bool = True
    """Of two runs, whether the ratio is worth saying; it is not for levels that may be zero or below."""


def early(run: Run, column: str) -> float:
    """Mean over the first tenth of the steps."""
    return _mean(run.columns.get(column, _NONE)[: _tenth(run)])


def late(run: Run, column: str) -> float:
    """Mean over the last tenth of the steps."""
    return _mean(run.columns.get(column, _NONE)[-_tenth(run) :])


_NONE = np.full(1, math.nan)


def _tenth(run: Run) -> int:
    return max(1, len(run.columns["step"]) // 10)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _total(run: Run, column: str) -> float:
    return float(np.nansum(run.columns[column])) if column in run.columns else math.nan


def _budget(run: Run, *names: str) -> float:
    found: Any = run.budget
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else math.nan


def _pace_note(run: Run) -> str:
    first, last = run.budget.get("first_step"), run.columns["step"].max()
    since = f"steps {first:,} to {last:,.0f}" if first else f"past the first {WARM_UP_STEPS} steps"
    return f"mean, {since}"


def _memory(run: Run, name: str) -> float:
    known = _budget(run, "memory", name)
    if math.isfinite(known):
        return known or math.nan  # a run on a CPU writes zero for the device
    return float(np.nanmax(run.columns[name])) if name in run.columns else math.nan


def _memory_note(run: Run) -> str:
    return "peak, most of any process" if run.budget.get("memory") else "peak of rank 0 so far"


def _from(column: str, scale: float = 1.0) -> Callable[[Run], str]:
    return lambda run: f"last tenth; {number(scale * early(run, column))} in the first"


def _rejected_note(run: Run) -> str:
    threshold = run.config.get("clips", {}).get("motion_threshold")
    return f"mean at or below γ = {threshold}" if threshold is not None else ""


def _learned(column: str, label: str, unit: str, scale: float = 1.0, compare: bool = False) -> KeyFigure:
    return KeyFigure(column, label, unit, lambda run: scale * late(run, column), _from(column, scale), compare)


FIGURES = (
    KeyFigure(
        "samples_per_s",
        "Throughput",
        "samples/s",
        lambda run: run.batch_size / run.seconds_per_step,
        lambda run: f"{number(_budget(run, 'clips_per_s'))} clips/s" if run.budget else _pace_note(run),
    ),
    KeyFigure("step_ms", "A step", "ms", lambda run: 1e3 * run.seconds_per_step, _pace_note),
    KeyFigure(
        "data_wait",
        "Waiting for data",
        "% of the step",
        lambda run: 100 * run.phases["data_wait"]["share"] if run.phases else math.nan,
        _pace_note,
        compare=False,
    ),
    KeyFigure(
        "peak_share",
        "Share of the peak",
        "%",
        lambda run: 100 * _budget(run, "flops", "peak_share"),
        lambda run: f"of {run.budget['flops']['peak_source']}",
    ),
    _learned("loss", "Loss", "nats, all terms"),
    _learned("top1_visual", "Top-1, visual", "%", scale=100),
    _learned("retrieval_visual", "Retrieval in the batch, visual", "%", scale=100),
    _learned("spread_visual", "Spread of visual keys", "1: even"),
    _learned("spread_motion", "Spread of motion keys", "1: even"),
    _learned("uniformity_visual", "Uniformity of visual keys", "−4: even"),
    _learned("bank_age", "Age of the bank's keys", "steps", compare=True),
    _learned("masked_negatives", "Masked negatives", "% of slots", scale=100),
    KeyFigure(
        "rejected_windows",
        "Rejected motion windows",
        "%",
        lambda run: 100 * _budget(run, "rejected_windows"),
        _rejected_note,
        compare=False,
    ),
    KeyFigure(
        "amplification",
        "Frames decoded for one used",
        "",
        lambda run: _total(run, "frames_decoded") / (_total(run, "frames_used") or math.nan),
        lambda run: "all steps of rank 0",
    ),
    KeyFigure("host_mb", "Host memory", "MB", lambda run: _memory(run, "host_mb"), _memory_note),
    KeyFigure("device_mb", "Device memory", "MB", lambda run: _memory(run, "device_mb"), _memory_note),
    KeyFigure(
        "videos_damaged",
        "Damaged videos left out",
        "",
        lambda run: _total(run, "videos_damaged"),
        lambda run: "over all steps",
        compare=False,
    ),
    KeyFigure(
        "minutes",
        "Time in steps",
        "minutes",
        lambda run: _total(run, "seconds") / 60,
        lambda run: f"{len(run.columns['step']):,} steps on record",
    ),
)


def tiles(runs: Sequence[Run]) -> str:
    """The figures that any of the runs knows, as HTML."""
    return f'<div class="tiles">{"".join(_tile(figure, runs) for figure in FIGURES)}</div>'


def _tile(figure: KeyFigure, runs: Sequence[Run]) -> str:
    values = [figure.value(run) for run in runs]
    if not any(math.isfinite(value) for value in values):
        return ""
    rows = []
    for letter, run, value in zip("AB", runs, values, strict=False):
        mark = f'<i class="letter">{letter}</i>' if len(runs) > 1 else ""
        note = figure.note(run) if math.isfinite(value) else "not on record"
        rows.append(
            f'<div class="row">{mark}<span class="value" data-figure="{figure.name}">{number(value)}</span> '
            f'<span class="unit">{escape(figure.unit)}</span><span class="note">{escape(note)}</span></div>'
        )
    return f'<div class="tile"><b>{escape(figure.label)}</b>{"".join(rows)}{_change(figure, values)}</div>'


def _change(figure: KeyFigure, values: Sequence[float]) -> str:
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return ""
    first, second = values
    if figure.compare and first > 0:
        return f'<span class="change">B / A = {second / first:.2f}</span>'
    sign = "+" if second > first else ""
    return f'<span class="change">B − A = {sign}{number(second - first)}</span>'
