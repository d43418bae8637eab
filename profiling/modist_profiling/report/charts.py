"""The page's curves over steps: which columns of metrics.jsonl, in what units, and how they are averaged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from modist_profiling.report.binning import Bins, bin_column
from modist_profiling.report.runs import Run
from modist_profiling.report.svg import Curve, Guide, line_plot, padded

TERMS = {
    "visual": ("visual", "blue"),
    "motion": ("motion", "orange"),
    "visual_to_motion": ("visual → motion", "aqua"),
    "motion_to_visual": ("motion → visual", "violet"),
}


@dataclass(frozen=True)
class Line:
    column: str
    label: str
    colour: str


@dataclass(frozen=True)
class Chart:
    """Columns that belong together, on one axis."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: float = 1.0
    """From the column's unit to the chart's."""
    weight: str | None = None
    """See `bin_column`."""
    from_zero: bool = True
    ends: tuple[float, float] | None = None
    """Of the axis, where they do not depend on the values."""
    guide: Callable[[dict[str, Any]], Guide | None] = lambda config: None
    """A level to compare with, given RUN/config.json."""
    why_absent: str = ""
    """Why a run may not have recorded any of the lines."""


def _by_term(prefix: str) -> tuple[Line, ...]:
    return tuple(Line(prefix + name, label, colour) for name, (label, colour) in TERMS.items())


def _by_modality(prefix: str) -> tuple[Line, ...]:
    return _by_term(prefix)[:2]


def _chance_loss(config: dict[str, Any]) -> Guide | None:
    slots = config.get("objective", {}).get("bank_size")
    return Guide(f"chance: ln(1 + {slots:,} negatives)", math.log(1 + slots)) if slots else None


def _chance_retrieval(config: dict[str, Any]) -> Guide | None:
    batch = config.get("batch_size")
    return Guide(f"chance: 1 of {batch}", 100 / batch) if batch else None


def _one(title: str, unit: str, column: str, label: str, colour: str, **options: Any) -> Chart:
    return Chart(title, unit, (Line(column, label, colour),), **options)


PERCENT = (0.0, 105.0)
LEARNING = (
    Chart("Loss by term", "InfoNCE, nats", _by_term("loss_"), guide=_chance_loss),
    Chart("Top-1 among positive and negatives", "%", _by_term("top1_"), scale=100, ends=PERCENT),
    Chart("Similarity of positives", "cosine", _by_term("positive_"), from_zero=False),
    _one("Learning rate", "", "lr", "learning rate", "blue"),
)
_COLOURS = {"plan": "yellow", "read": "aqua", "decode": "violet"}
_BEHIND = tuple(Line(f"loader_spans.{name}", name, colour) for name, colour in _COLOURS.items())
_WAIT = {"scale": 100, "weight": "seconds", "ends": PERCENT}
THROUGHPUT = (
    _one("Throughput", "samples/s", "samples_per_s", "samples/s", "blue", weight="seconds"),
    _one("Waiting for data", "% of the step", "data_wait", "data wait", "orange", **_WAIT),
    _one("Batches ready when a step asked", "", "queue_depth", "batches ready", "aqua"),
    Chart("Behind the steps: time of other threads", "ms per step", _BEHIND, scale=1e3),
)
DATA = (
    _one(
        "Amplification", "frames decoded for one used", "amplification", "decoded / used", "blue", weight="frames_used"
    ),
    _one("Bytes read for one needed", "", "bytes_ratio", "bytes read / needed", "blue", weight="bytes_needed"),
    _one("Reading", "MB/s, rank 0", "bytes_per_s", "MB/s", "aqua", scale=1e-6, weight="seconds"),
    _one("Damaged videos left out", "per step", "videos_damaged", "damaged videos", "red"),
)
_CPU = "a run on a CPU has no other memory"
MEMORY = (
    _one("Host memory of rank 0", "MB, most so far", "host_mb", "host", "blue"),
    _one("Device memory of rank 0", "MB, most so far", "device_mb", "device", "violet", why_absent=_CPU),
)
_SLOTS = (Line("bank_filled", "filled", "aqua"), Line("masked_negatives", "masked for a query", "red"))
HEALTH = (
    Chart("Spread of the keys", "1: even, 0: collapsed", _by_modality("spread_"), ends=(0.0, 1.1)),
    Chart("Uniformity of the keys", "0: collapsed, −4: even", _by_modality("uniformity_"), ends=(-4.2, 0.2)),
    Chart("Retrieval within the batch", "%", _by_term("retrieval_"), scale=100, ends=PERCENT, guide=_chance_retrieval),
    _one("Age of the bank's keys", "steps, mean", "bank_age", "age", "aqua"),
    Chart("Share of the bank", "% of slots", _SLOTS, scale=100, ends=PERCENT),
)


def figures(run: Run, chart: Chart) -> list[tuple[Line, Bins]]:
    """The chart's lines that a run has recorded."""
    found = [(line, bin_column(run.columns, line.column, chart.weight)) for line in chart.lines]
    return [(line, bins) for line, bins in found if bins is not None]


def cards(runs: Sequence[Run], chart: Chart) -> str:
    """The chart of each run as HTML, on the same axes; "" where no run has recorded any of its lines."""
    recorded = [figures(run, chart) for run in runs]
    if not any(recorded):
        return ""
    guides = [chart.guide(run.config) for run in runs]
    x = steps_axis(runs)
    # A range is worth showing for a single line; those of several would hide one another.
    alone = len(chart.lines) == 1
    values = [
        chart.scale * value
        for found in recorded
        for _, bins in found
        for value in (*bins.mean, *(bins.high if alone else ()), *(bins.low if alone else ()))
    ]
    y = chart.ends or padded([*values, *(guide.y for guide in guides if guide)], chart.from_zero)
    html = []
    for run, found, guide in zip(runs, recorded, guides, strict=True):
        curves = [
            Curve(
                line.label,
                line.colour,
                bins.step,
                chart.scale * bins.mean,
                (chart.scale * bins.low, chart.scale * bins.high) if alone else None,
            )
            for line, bins in found
        ]
        body = line_plot(chart.title, curves, [guide] if guide else [], x, y) if found else absent(chart)
        legend = [] if alone else [(line.label, line.colour) for line, _ in found]
        html.append(card(chart.title, chart.unit, legend, body, run.name if len(runs) > 1 else ""))
    return "".join(html)


def steps_axis(runs: Sequence[Run]) -> tuple[float, float]:
    """First and last step of any run."""
    ends = [(run.columns["step"].min(), run.columns["step"].max()) for run in runs]
    return float(min(first for first, _ in ends)), float(max(last for _, last in ends))


def absent(chart: Chart) -> str:
    return f'<p class="missing">This run did not record {escape(_why(chart))}.</p>'


def _why(chart: Chart) -> str:
    names = ", ".join(line.column for line in chart.lines)
    return f"{names}: {chart.why_absent}" if chart.why_absent else names


def card(title: str, unit: str, legend: Sequence[tuple[str, str]], body: str, run: str = "") -> str:
    """A figure with its heading; `legend` is of (label, colour)."""
    keys = "".join(
        f'<span><span class="key" style="--key:var(--{colour})"></span>{escape(text)}</span>' for text, colour in legend
    )
    return (
        f'<figure class="card"><figcaption><b>{escape(title)}</b> <span class="unit">{escape(unit)}</span>'
        f'<span class="run">{escape(run)}</span></figcaption>'
        f'<div class="legend">{keys}</div>{body}</figure>'
    )


def missing(runs: Sequence[Run], charts: Sequence[Chart]) -> dict[str, str]:
    """Titles of the charts of which no run has recorded a line, each with why."""
    return {chart.title: _why(chart) for chart in charts if not any(figures(run, chart) for run in runs)}
