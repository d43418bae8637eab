"""A run, or two side by side, as one HTML page: modist report RUN [RUN] [--out FILE]

The page needs no network, and can be made while the run goes on.
"""

# Sections come in the order in which they are read. Styles and script are page.css and page.js.

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path

from modist_fast.commands.cli import Parser
from modist_fast.errors import ConfigError
from modist_profiling.report import charts
from modist_profiling.report.budget_view import budget_cards, phase_table, rank_cards, rank_sentence
from modist_profiling.report.clips import contact_sheet, rejected_sentence
from modist_profiling.report.key_figures import tiles
from modist_profiling.report.runs import ReportError, Run, read_run
from modist_profiling.report.svg import number
from modist_profiling.report.tables import environment_table, options_tables


def page(runs: Sequence[Run]) -> str:
    """One run, or two side by side on the same axes, as an HTML document that loads nothing else."""
    assert 1 <= len(runs) <= 2
    title = " and ".join(run.name for run in runs)
    if len(runs) == 2:
        runs = [replace(run, name=f"{letter}: {run.name}") for letter, run in zip("AB", runs, strict=True)]
    sections = {
        "Key figures": tiles(runs),
        "Where the time went": _time(runs),
        "Learning": _charts(runs, charts.LEARNING),
        "Health of the embeddings": _charts(runs, charts.HEALTH),
        "Speed and waiting": _charts(runs, charts.THROUGHPUT),
        "Data": _charts(runs, charts.DATA),
        "Clips": _each(runs, lambda run: rejected_sentence(run) + contact_sheet(run)),
        "Memory": _charts(runs, charts.MEMORY) + _each(runs, _device_readings),
        "Environment": environment_table(runs),
        "Options": options_tables(runs),
        "What is missing": _missing(runs),
    }
    shown = [(heading, body) for heading, body in sections.items() if body]
    links = "".join(f'<a href="#{_anchor(heading)}">{heading}</a>' for heading, _ in shown)
    body = "".join(f'<section id="{_anchor(heading)}"><h2>{heading}</h2>{body}</section>' for heading, body in shown)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An icon of nothing: browsers would ask the network for one.
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}: report of a modist-fast run</title><style>{_text('page.css')}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{_each(runs, _verdict, 'verdicts')}<nav>{links}</nav></header>"
        f'<main>{body}</main><div id="tip" hidden></div><script>{_text("page.js")}</script></body></html>\n'
    )


def _text(name: str) -> str:
    return resources.files("modist_profiling.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _each(runs: Sequence[Run], part: Callable[[Run], str], kind: str = "") -> str:
    """A part of each run in its own column; "" where no run has it."""
    found = [part(run) for run in runs]
    if not any(found):
        return ""
    names = [f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else "" for run in runs]
    empty = '<p class="missing">Not on record.</p>'
    columns = "".join(f"<div>{name}{html or empty}</div>" for name, html in zip(names, found, strict=True))
    return f'<div class="{_columns(runs)} {kind}">{columns}</div>'


def _columns(runs: Sequence[Run]) -> str:
    return "pair" if len(runs) > 1 else "grid"


def _charts(runs: Sequence[Run], group: Sequence[charts.Chart]) -> str:
    cards = "".join(charts.cards(runs, chart) for chart in group)
    return f'<div class="{_columns(runs)}">{cards}</div>' if cards else ""


def _verdict(run: Run) -> str:
    first, last = run.columns["step"].min(), run.columns["step"].max()
    steps = f"steps {number(first)} to {number(last)} of metrics.jsonl"
    line = run.budget.get("verdict")
    if line:
        bottleneck, _, reason = line.partition(": ")
        # An option is one word: no line ends after its hyphens.
        reason = re.sub(r"--[\w.-]+", r'<span class="option">\g<0></span>', escape(reason))
        says = f"<b>{escape(bottleneck)}</b><span>{reason}</span>"
    elif "budget.json" in run.missing:
        says = "<b>No verdict yet</b><span>A run writes it when it ends. What follows is the run so far.</span>"
    else:
        says = "<b>No verdict</b><span>The run had too few steps past the warm-up.</span>"
    return f'<p class="verdict">{says}<span class="note">{steps}</span></p>'


def _time(runs: Sequence[Run]) -> str:
    cards = budget_cards(runs)
    if not cards:
        return "<p>No step past the warm-up.</p>"
    if len(runs) > 1:
        return (
            f'<div class="pair">{cards}</div><div class="card">{phase_table(runs)}</div>'
            f"{_each(runs, lambda run: f'<p>{escape(rank_sentence(run))}</p>{rank_cards(run)}')}"
        )
    [run] = runs
    return (
        f'<div class="wide">{cards}<div class="card">{phase_table(runs)}</div></div>'
        f'<p>{escape(rank_sentence(run))}</p><div class="grid">{rank_cards(run)}</div>'
    )


def _device_readings(run: Run) -> str:
    readings = run.budget.get("gpu")
    if not readings:
        return ""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{number(value)}</td></tr>" for name, value in readings.items())
    return f'<table class="numbers"><tr><th>NVML, rank 0</th><th>mean</th></tr>{cells}</table>'


def _missing(runs: Sequence[Run]) -> str:
    reasons = []
    for run in runs:
        of = f"{run.name}: " if len(runs) > 1 else ""
        reasons += [(f"{of}{name}", why) for name, why in run.missing.items()]
    groups = (charts.LEARNING, charts.HEALTH, charts.THROUGHPUT, charts.DATA, charts.MEMORY)
    every = [chart for group in groups for chart in group]
    reasons += [(f"“{title}”", f"no line has {why}") for title, why in charts.missing(runs, every).items()]
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}.</li>" for name, why in reasons)
    return f"<ul>{items}</ul>" if items else ""


def main() -> None:
    options = _parse()
    try:
        html = page([read_run(folder) for folder in options.runs])
    except ReportError as error:
        raise ConfigError(str(error)) from error
    out: Path = options.out or options.runs[0] / "report.html"
    try:
        out.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}. Choose another file.") from error
    print(f"{out}  {len(html.encode()) / 1e6:.1f} MB; open it in a browser")


def _parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the --out of a modist pretrain")
    parser.add_argument("--out", type=Path, help="the page; without it report.html in the first RUN")
    options = parser.parse_args()
    if len(options.runs) > 2:
        raise ConfigError(f"{len(options.runs)} runs were given. Give one, or two to see side by side.")
    return options
