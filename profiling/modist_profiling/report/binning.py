"""Long runs as few points: what a page can hold and an eye can read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_BINS = 160
MAX_BARS = 48


@dataclass(frozen=True)
class Bins:
    """A column in bins of equally many steps, (N,) float64 each; NaN where no step of a bin has the figure."""

    step: np.ndarray
    """Mean step of the bin."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bin_column(
    columns: Mapping[str, np.ndarray], name: str, weight: str | None = None, max_bins: int = MAX_BINS
) -> Bins | None:
    """A column's mean and range in at most `max_bins` bins; None where it has no finite value.

    Args:
        columns: with "step".
        name: of the column.
        weight: column of weights: of rates the seconds, of ratios the denominator, so that a bin's mean is the
            ratio of its sums.
        max_bins: at most so many.
    """
    values = columns.get(name)
    if values is None or not np.isfinite(values).any():
        return None
    step = columns["step"]
    weights = columns[weight] if weight else np.ones(len(step))
    width = int(np.ceil((step.max() - step.min() + 1) / max_bins))
    index = ((step - step.min()) // width).astype(int)
    num_bins = index.max() + 1

    def total(what: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.bincount(index[where], what[where], minlength=num_bins)

    every, good = np.full(len(step), True), np.isfinite(values) & np.isfinite(weights)
    low, high = np.full(num_bins, np.inf), np.full(num_bins, -np.inf)
    np.minimum.at(low, index[good], values[good])
    np.maximum.at(high, index[good], values[good])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total(values * weights, good) / total(weights, good)
        middle = total(step, every) / total(np.ones(len(step)), every)
    filled = np.isfinite(middle)
    low, high = (np.where(np.isfinite(edge), edge, np.nan) for edge in (low, high))
    return Bins(middle[filled], mean[filled], low[filled], high[filled])


@dataclass(frozen=True)
class Bar:
    """Windows of the budget put together."""

    first: int
    last: int
    """Steps, both included."""
    phases: dict[str, list[float]]
    """Seconds a step by rank."""
    seconds: list[float]
    """A step, by rank."""


def bars(windows: list[dict[str, Any]], max_bars: int = MAX_BARS) -> list[Bar]:
    """Neighbouring windows, as many in each, as at most `max_bars` bars. Those of another number of ranks are apart."""
    if not windows:
        return []
    size = -(-len(windows) // max_bars)
    groups = [windows[start : start + size] for start in range(0, len(windows), size)]
    return [_bar([window for window in group if _ranks(window) == _ranks(group[-1])]) for group in groups]


def _ranks(window: Mapping[str, Any]) -> int:
    return len(window["seconds"])


def _bar(group: list[dict[str, Any]]) -> Bar:
    num_steps = sum(window["num_steps"] for window in group)

    def per_step(rows: list[list[float]]) -> list[float]:
        return (np.sum(rows, axis=0) / num_steps).tolist()

    return Bar(
        first=group[0]["step"] - group[0]["num_steps"] + 1,
        last=group[-1]["step"],
        phases={name: per_step([window["phases"][name] for window in group]) for name in group[-1]["phases"]},
        seconds=per_step([window["seconds"] for window in group]),
    )
