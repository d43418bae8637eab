"""Where the time went: phases over the run, their table, and the ranks beside one another."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from modist_profiling.report.binning import Bar, bars
from modist_profiling.report.charts import card, steps_axis
from modist_profiling.report.runs import Run
from modist_profiling.report.svg import Curve, Stack, line_plot, number, padded, stack_plot

# Fourteen colours would tell nothing apart: the nets, what is waited for, and the rest.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "keys": ("net1", ("keys",)),
    "queries": ("net2", ("queries",)),
    "backward": ("net3", ("backward",)),
    "loss": ("aqua", ("loss",)),
    "data wait": ("orange", ("data_wait",)),
    "other ranks": ("violet", ("gather", "all_reduce")),
    "checkpoint": ("yellow", ("checkpoint",)),
    "small steps": ("grey", ("copy", "momentum", "checks", "optimizer", "enqueue", "log", "other")),
}
_COLOURS = [colour for colour, _ in GROUPS.values()]
_LEGEND = [(label, colour) for label, (colour, _) in GROUPS.items()]
# Where ranks wait for one another; as the verdict counts them.
WAITS = ("gather", "all_reduce", "log")
_MAX_RANKS = 16


def grouped(seconds: Mapping[str, float]) -> tuple[float, ...]:
    """Milliseconds of each group, given the seconds of each phase."""
    return tuple(1e3 * sum(seconds.get(name, 0.0) for name in names) for _, names in GROUPS.values())


def budget_cards(runs: Sequence[Run]) -> str:
    """Bars over time of each run, on the same axes; "" where none has steps past the warm-up."""
    stacked = [[_stack(bar) for bar in bars(run.windows)] for run in runs]
    if not any(stacked):
        return ""
    y = padded([sum(stack.parts) for stacks in stacked for stack in stacks], from_zero=True)
    html = []
    for run, stacks in zip(runs, stacked, strict=True):
        body = (
            stack_plot("Step budget over the run", stacks, list(GROUPS), _COLOURS, steps_axis(runs), y)
            if stacks
            else '<p class="missing">No step past the warm-up.</p>'
        )
        html.append(card("Step budget over the run", "ms per step", _LEGEND, body, run.name if len(runs) > 1 else ""))
    return "".join(html)


def _stack(bar: Bar) -> Stack:
    return Stack(bar.first, bar.last, grouped({name: sum(of) / len(of) for name, of in bar.phases.items()}))


def phase_table(runs: Sequence[Run]) -> str:
    """Each phase's time and share; for two runs also what changed. The longest of the first run comes first."""
    found = [run.phases for run in runs]
    order = sorted({name for phases in found for name in phases}, key=lambda name: -_seconds(found[0], name))
    two = len(runs) == 2
    heads = "".join(f"<th>{escape(run.name) if two else ''} ms</th><th>share</th>" for run in runs)
    rows = []
    for name in order:
        cells = "".join(
            f"<td>{number(1e3 * _seconds(phases, name))}</td><td>{_share(phases, name)}</td>" for phases in found
        )
        change = _seconds(found[-1], name) - _seconds(found[0], name)
        cells += f"<td>{number(1e3 * change)}</td>" if two else ""
        rows.append(f"<tr><th>{_key(name)}{escape(name)}</th>{cells}</tr>")
    body = f"<tr><th>phase</th>{heads}{'<th>B − A, ms</th>' if two else ''}</tr>{''.join(rows)}"
    return f'<table class="numbers">{body}</table>'


def _seconds(phases: Mapping[str, Mapping[str, float]], name: str) -> float:
    return phases[name]["seconds"] if name in phases else 0.0


def _share(phases: Mapping[str, Mapping[str, float]], name: str) -> str:
    return f"{100 * phases[name]['share']:.1f} %" if name in phases else "–"


def _key(phase: str) -> str:
    colour = next((colour for colour, names in GROUPS.values() if phase in names), "grey")
    return f'<span class="key" style="--key:var(--{colour})"></span>'


def own_seconds(phases: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Seconds a step of each rank that it did not spend waiting for others, given each phase's seconds by rank."""
    return np.sum([values for name, values in phases.items() if name not in WAITS], axis=0)


def rank_cards(run: Run) -> str:
    """How the ranks of a run compare: what each does in a step, and over time; "" for one process."""
    by_rank = {name: phase["by_rank"] for name, phase in run.phases.items()}
    num_ranks = len(next(iter(by_rank.values()), []))
    if num_ranks < 2:
        return ""
    own = own_seconds(by_rank)
    slowest = int(own.argmax())
    # All of them, or the slowest and the fastest ones: the page stays readable for a thousand ranks.
    order = np.argsort(-own, kind="stable")
    shown = sorted(order if num_ranks <= _MAX_RANKS else [*order[: _MAX_RANKS // 2], *order[-_MAX_RANKS // 2 :]])
    steps = {rank: grouped({name: of[rank] for name, of in by_rank.items()}) for rank in shown}
    longest = max(map(sum, steps.values()))
    rows = [_rank_bar(rank, parts, longest, rank == slowest) for rank, parts in steps.items()]
    html = card("A step on each rank", "ms", _LEGEND, f'<div class="ranks">{"".join(rows)}</div>')
    return html + _own_time(run, num_ranks, slowest)


def _rank_bar(rank: int, parts: Sequence[float], longest: float, marked: bool) -> str:
    pieces = "".join(
        f'<i style="width:{100 * value / longest:.2f}%;background:var(--{colour})" '
        f'title="{label}: {number(value)} ms"></i>'
        for value, (label, colour) in zip(parts, _LEGEND, strict=True)
        if value
    )
    return f"<b{' class=marked' if marked else ''}>rank {rank}</b><div>{pieces}</div><span>{number(sum(parts))}</span>"


def _own_time(run: Run, num_ranks: int, slowest: int) -> str:
    over_time = [bar for bar in bars(run.windows) if len(bar.seconds) == num_ranks]
    if not over_time:
        return ""
    own = 1e3 * np.array([own_seconds(bar.phases) for bar in over_time])
    x = np.array([(bar.first + bar.last) / 2 for bar in over_time])
    curves = [
        Curve("median rank", "blue", x, np.median(own, axis=1), (own.min(axis=1), own.max(axis=1))),
        Curve(f"rank {slowest}, the slowest", "red", x, own[:, slowest]),
    ]
    low, high = padded(own.ravel().tolist(), from_zero=True)
    title = "Own work, without waiting for other ranks"
    body = line_plot(title, curves, [], steps_axis([run]), (low, high))
    return card(title, "ms per step", [(curve.label, curve.colour) for curve in curves], body)


def rank_sentence(run: Run) -> str:
    """What the ranks' times mean."""
    by_rank = {name: phase["by_rank"] for name, phase in run.phases.items()}
    num_ranks = len(next(iter(by_rank.values()), []))
    if num_ranks == 0:
        return "No step past the warm-up, so nothing to compare."
    if num_ranks == 1:
        return "One process, or figures of rank 0 alone: no ranks to compare."
    own = own_seconds(by_rank)
    slowest, others = int(own.argmax()), (own.sum() - own.max()) / (num_ranks - 1)
    ratio = own.max() / others if others else math.nan
    straggler = run.budget.get("straggler")
    if straggler:
        return (
            f"Rank {straggler['rank']} is a straggler: it takes {straggler['ratio']:.2f} times as long as the others, "
            f"most of it in {straggler['phase']}."
        )
    return f"No straggler: rank {slowest} is the slowest, {100 * (ratio - 1):.1f} % above the mean of the others."
