"""Plots as SVG text: lines with a range behind them, and stacked bars over time.

Colours are names of the page's CSS variables, so that plots follow its light and dark theme. The page's script reads
`data-hover` to show values under the pointer.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 600, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 40


@dataclass(frozen=True)
class Span:
    """An axis from `low` to `high` over pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Curve:
    label: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest value at each x."""


@dataclass(frozen=True)
class Guide:
    """A level to compare with."""

    label: str
    y: float


@dataclass(frozen=True)
class Stack:
    """A bar from step `first` to `last`, in parts."""

    first: int
    last: int
    parts: tuple[float, ...]


def number(value: float) -> str:
    """Three digits that matter, thousands apart: 0.0123, 4.56, 78.9, 12,345; "–" for NaN."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 6)}f}".replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(low: float, high: float, target: int = 4) -> list[float]:
    """Round values within the range, about `target` of them, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / target
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def padded(values: Iterable[float], from_zero: bool) -> tuple[float, float]:
    """An axis for the values: a little air, never empty."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if from_zero:
        low = min(low, 0.0)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        low, high = (low, high + 1) if from_zero else (low - 0.5, high + 0.5)
    air = 0.06 * (high - low)
    return (low if from_zero and low == 0 else low - air), high + air


def line_plot(
    name: str, curves: Sequence[Curve], guides: Sequence[Guide], x: tuple[float, float], y: tuple[float, float]
) -> str:
    """Lines over steps; `x` and `y` are the ends of the axes."""
    across, up = _spans(x, y)
    parts = [_axes(across, up)]
    for curve in curves:
        if curve.band is not None:
            parts.append(_band(curve, across, up))
    above = []
    for guide in guides:
        level = up(min(max(guide.y, y[0]), y[1]))
        parts.append(f'<path class="guide" d="M{across.start} {level:.1f}H{across.end}"/>')
        label = f'<text class="guide-label" x="{across.end - 4}" y="{level - 4:.1f}" text-anchor="end">'
        above.append(f"{label}{escape(guide.label)}</text>")
    for curve in curves:
        parts.append(f'<path class="line" style="stroke:var(--{curve.colour})" d="{_line(curve, across, up)}"/>')
        if len(curve.x) == 1:
            parts.append(f'<circle cx="{across(curve.x[0]):.1f}" cy="{up(curve.y[0]):.1f}" r="3" ')
            parts.append(f'style="fill:var(--{curve.colour})"/>')
    parts += above
    steps = sorted({float(step) for curve in curves for step in curve.x})
    rows = []
    for curve in curves:
        known = dict(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
        rows.append([curve.label, curve.colour, [number(known.get(step, math.nan)) for step in steps]])
    hover = {"x": [round(across(step), 1) for step in steps], "at": [f"step {number(step)}" for step in steps]}
    return _svg(name, parts, hover | {"rows": rows})


def stack_plot(
    name: str,
    stacks: Sequence[Stack],
    labels: Sequence[str],
    colours: Sequence[str],
    x: tuple[float, float],
    y: tuple[float, float],
) -> str:
    """Bars over steps, their parts on top of one another in the order given."""
    across, up = _spans(x, y)
    parts = [_axes(across, up)]
    for stack in stacks:
        left, right = across(stack.first - 0.5), across(stack.last + 0.5)
        gap = min(1.5, 0.15 * (right - left))
        below = 0.0
        for value, colour in zip(stack.parts, colours, strict=True):
            bottom, top = up(below), up(below + value)
            below += value
            if bottom - top >= 0.2:
                parts.append(
                    f'<path style="fill:var(--{colour})" '
                    f'd="M{left:.1f} {bottom:.1f}V{top:.1f}H{right - gap:.1f}V{bottom:.1f}z"/>'
                )
    rows = [
        [label, colours[index], [number(stack.parts[index]) for stack in stacks]] for index, label in enumerate(labels)
    ]
    rows.append(["step", "ink", [number(sum(stack.parts)) for stack in stacks]])
    hover = {
        "x": [round(across((stack.first + stack.last) / 2), 1) for stack in stacks],
        "at": [f"steps {stack.first:,} to {stack.last:,}, ms" for stack in stacks],
        "rows": rows,
    }
    return _svg(name, parts, hover)


def _spans(x: tuple[float, float], y: tuple[float, float]) -> tuple[Span, Span]:
    wide = x if x[1] > x[0] else (x[0] - 0.5, x[1] + 0.5)
    return Span(*wide, _LEFT, WIDTH - _RIGHT), Span(*y, HEIGHT - _BOTTOM, _TOP)


def _axes(across: Span, up: Span) -> str:
    parts = []
    for tick in ticks(up.low, up.high):
        parts.append(f'<path class="grid" d="M{across.start} {up(tick):.1f}H{across.end}"/>')
        parts.append(f'<text class="tick" x="{across.start - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">')
        parts.append(f"{number(tick)}</text>")
    for tick in ticks(across.low, across.high, 6):
        if tick == int(tick):
            parts.append(f'<text class="tick" x="{across(tick):.1f}" y="{up.start + 16}" text-anchor="middle">')
            parts.append(f"{number(tick)}</text>")
    parts.append(f'<text class="tick" x="{across.end}" y="{up.start + 36}" text-anchor="end">step</text>')
    return "".join(parts)


def _line(curve: Curve, across: Span, up: Span) -> str:
    words, pen = [], "M"
    for x, y in zip(curve.x, curve.y, strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        words.append(f"{pen}{across(x):.1f} {up(y):.1f}")
        pen = "L"
    return "".join(words)


def _band(curve: Curve, across: Span, up: Span) -> str:
    assert curve.band is not None
    low, high = (np.clip(edge, up.low, up.high) for edge in curve.band)
    good = np.isfinite(low)
    there = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(curve.x[good], high[good], strict=True)]
    back = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(curve.x[good], low[good], strict=True)]
    return f'<path class="band" style="fill:var(--{curve.colour})" d="M{"L".join(there + back[::-1])}z"/>'


def _svg(name: str, parts: Sequence[str], hover: Mapping[str, object]) -> str:
    data = escape(json.dumps(hover, ensure_ascii=False, separators=(",", ":")))
    cursor = f'<path class="cursor" d="M0 {_TOP}V{HEIGHT - _BOTTOM}" visibility="hidden"/>'
    head = (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}" data-hover="{data}">'
    )
    return f"{head}{''.join(parts)}{cursor}</svg>"
