"""What a benchmark leaves: tables for the terminal, JSON, CSV and plots, and what its numbers depend on."""

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from re import match
from typing import Any

import numpy as np
import torch

from modist_fast.errors import ConfigError
from modist_fast.host.environment import environment
from modist_fast.watch.rates import Roofline
from modist_profiling.frame.rows import R, Row, digits


def find_device(name: str) -> torch.device:
    """The device of `--device auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here. Leave --device out to compare the CPU paths.")
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def conditions(device: torch.device, limits: Roofline | None = None) -> dict[str, Any]:
    """The environment, and what else the numbers of a benchmark depend on."""
    return environment() | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "torch": torch.__version__,  # with its build
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **({"roofline": asdict(limits)} if limits is not None else {}),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown whose columns stand under one another, those of numbers to the right; "" without rows."""
    columns = []
    for head, *cells in zip(header, *(map(str, row) for row in rows), strict=True):
        width = max(3, len(head), *map(len, cells))
        if all(match(r"[-+]?\d|$", cell) for cell in cells):
            columns.append([line.rjust(width) for line in (head, "-" * (width - 1) + ":", *cells)])
        else:
            columns.append([line.ljust(width) for line in (head, "-" * width, *cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)) if rows else ""


def by_table(rows: Sequence[R]) -> dict[str, list[R]]:
    return {title: [row for row in rows if row.table == title] for title in dict.fromkeys(row.table for row in rows)}


def tables(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each table with its title, from what `Row.record` gives; a row that was not measured says why."""
    found = []
    for title in dict.fromkeys(record["table"] for record in records):
        chosen = [record for record in records if record["table"] == title]
        heads = sorted(dict.fromkeys(head for record in chosen for head in record["cells"]), key="not measured".__eq__)
        lines = [[record["name"], *(record["cells"].get(head, "") for head in heads)] for record in chosen]
        found.append(f"{title}\n\n{table(('', *heads), lines)}")
    return found


def print_rows(rows: Sequence[Row]) -> None:
    """The tables of the rows."""
    for text in tables([row.record() for row in rows]):
        print(f"\n{text}")


def plot_bars(path: Path, rows: Sequence[Row], times: str = "times") -> None:
    """A bar for each row's `times` (or "cpu_times"), a line from p20 to p80, a chart for each table."""
    tables = by_table([row for row in rows if row.times])
    with charts(path, len(tables), 1, (9, 0.35 * len(rows) + len(tables))) as axes:
        for (title, chosen), chart in zip(tables.items(), axes, strict=True):
            low, middle, high = np.array([np.quantile(getattr(row, times), (0.2, 0.5, 0.8)) for row in chosen]).T
            colors = ["tab:blue" if row.name.startswith(("modist", "ours")) else "tab:gray" for row in chosen]
            chart.barh(range(len(chosen)), middle, xerr=(middle - low, high - middle), color=colors)
            for place, (row, value, end) in enumerate(zip(chosen, middle, high, strict=True)):
                text = f"{row.speedup:.2f}×" if "speedup" in row.derived else digits(value)
                chart.text(end, place, f"  {text}", va="center", fontsize=8)
            chart.set_yticks(range(len(chosen)), [row.name for row in chosen], fontsize=8)
            chart.invert_yaxis()
            chart.margins(x=0.1)
            chart.set_title(title, fontsize=9)
            chart.set_xlabel(f"{'CPU ' if times == 'cpu_times' else ''}{rows[0].unit} (median, p20 to p80)", fontsize=8)


@contextmanager
def charts(path: Path, down: int, across: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """Axes of a picture of `size` inches, which is written to `path` in the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    yield list(axes.flat)
    figure.savefig(path, dpi=120)


def write_json(path: Path, rows: object, ratios: object, found: object, more: Mapping[str, Any] | None = None) -> None:
    """One object: rows, ratios by name, environment, and what a benchmark has beside them."""
    content = {"rows": rows, "ratios": ratios, "environment": found, **(more or {})}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Row], found: Mapping[str, Any]) -> None:
    """A line for each row, with device, versions and time on each, so that files can be joined; no lists."""
    common = {key: found[key] for key in ("device", "cpu", "torch", "time")}
    lines = []
    for record in (row.record() for row in rows):
        del record["cells"]
        inner = [value for value in record.values() if isinstance(value, dict)]
        cells = {key: value for part in (*inner, record, common) for key, value in part.items()}
        lines.append({key: value for key, value in cells.items() if not isinstance(value, (list, dict))})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for line in lines for key in line))
        writer.writeheader()
        writer.writerows(lines)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the options of a benchmark begin with: where its report goes, beside the terminal."""

    json: Path | None = None
    """File that takes all rows, ratios and the machine."""
    csv: Path | None = None
    """File that takes the rows."""
    plot: Path | None = None
    """Picture of the rows."""

    def give(
        self,
        rows: Sequence[Row],
        ratios: Mapping[str, float],
        found: Mapping[str, Any],
        chart: Callable[[Path, Sequence[Any]], None] = plot_bars,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the ratios and write the files; `found`: the conditions, `more`: for the JSON alone."""
        print("\nratios")
        for name, value in ratios.items():
            print(f"  {name:44} {value:.5g}")
        if self.json:
            write_json(self.json, [row.record() for row in rows], ratios, found, more)
        if self.csv:
            write_csv(self.csv, rows, found)
        if self.plot:
            chart(self.plot, rows)
