"""One training step: this project's against the method written plainly, and what each of its choices is worth.

    python profiling/bench_step.py                          # CPU or GPU, some minutes on 2 cores
    python profiling/bench_step.py --json step.json --plot step.png

Part one, `step`: R3D-18 on 8 × 128² clips and 16 × 128² edge maps, one process. The baseline is plain_step.py; the
rows below it add one choice after another, the last is modist_fast.step.TrainingStep, as pretrain.py runs it.
Part two, `backbones`: forward and backward of R3D-50 and R3D-18 against PyTorchVideo's and torchvision's.
Each row is a process of its own, as a training run is; some of them, the table's first always among them, take turns,
so that a disturbance falls on all of them.
Clips are made up and wait in memory: data is bench_pipeline.py's.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from modist_fast.errors import ConfigError
from modist_fast.watch.budget_keeper import step_flops
from modist_fast.watch.rates import count_flops
from modist_profiling.frame import environment, percentile
from modist_profiling.step.peers import BACKBONES
from modist_profiling.step.plain import CHOICES
from modist_profiling.step.worker import step_config

WORKER = "modist_profiling.step.worker"


@dataclass(frozen=True)
class Options:
    """Benchmark of the training step and its backbones."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    part: Literal["all", "step", "backbones"] = "all"
    preset: str = "modist-r18-128"
    """Recipe of the step: nets and clips; modist-r50 with --crop 224 is the paper's."""
    batch: int = 8
    """Samples of a step."""
    crop: int = 128
    bank: int = 65536
    backbone_batch: int = 2
    """Clips of 8 × 112² of a backbone's call."""
    threads: int = 2
    """CPU threads."""
    rounds: int = 11
    """Turns of each row."""
    together: int = 6
    """Rows that are measured, and held in memory, at a time. The first of a table is always among them."""
    choices: bool = True
    """Rows for the choices between the plain step and the project's; False leaves these two."""
    compile: bool = False
    """Add a row with torch.compile (minutes at first on a CPU)."""
    json: Path | None = None
    plot: Path | None = None


@dataclass
class Row:
    """A line of the report."""

    table: str
    name: str
    spec: dict[str, Any]
    flops: float
    """Of the nets in one run."""
    missing: str = ""
    """Why it was not run."""
    times: list[float] = field(default_factory=list)
    """Milliseconds of each turn."""
    cpu_times: list[float] = field(default_factory=list)
    """Milliseconds of the host's processors in each: with one thread, what other work on the machine disturbs least."""
    baseline: list[float] = field(default_factory=list)
    """Of the table's first row, in the same turns."""
    operations: int = 0
    """Of a run, see `count_operations`; 0 where unknown."""
    host_mb: float = 0.0
    device_mb: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def speedup(self) -> float:
        return statistics.median(self.baseline) / self.median


def step_rows(options: Options) -> list[Row]:
    common = {name: getattr(options, name) for name in ("preset", "batch", "crop", "bank", "threads", "device")}
    common |= {"part": "step", "compile": False, "row": "plain"}
    config = step_config(common)
    flops = step_flops(config)
    net = f"R3D-{config.model.arch.removeprefix('r')}"
    table = f"training step: {net}, batch {options.batch}, {options.crop}², bank {options.bank}"
    rows = [Row(table, "plain", {**common, "choices": []}, flops)]
    for count, choice in enumerate(CHOICES if options.choices else (), 1):
        rows.append(Row(table, f"+ {CHOICES[choice]}", {**common, "choices": list(CHOICES)[:count]}, flops))
    rows.append(Row(table, "modist step", {**common, "row": "modist"}, flops))
    if options.compile:
        rows.append(Row(table, "modist step, torch.compile", {**common, "row": "modist", "compile": True}, flops))
    return rows


def backbone_rows(options: Options) -> list[Row]:
    rows = []
    for name, backbone in BACKBONES.items():
        spec = {"part": "backbone", "row": name, "batch": options.backbone_batch, "threads": options.threads}
        table = f"{backbone.table}, forward and backward: {options.backbone_batch} × 3 × 8 × 112²"
        if not backbone.is_installed:
            missing = f"not installed (pip install {backbone.needs})"
            rows.append(Row(table, name, spec, 0.0, missing))
            continue
        with torch.device("meta"):
            clips = torch.empty(options.backbone_batch, 3, 8, 112, 112)
            flops = count_flops(backbone.build(), [clips], backward=True)
        rows.append(Row(table, name, {**spec, "device": options.device}, flops))
    return rows


class Worker:
    """The process of a row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        command = [sys.executable, "-m", WORKER, json.dumps(row.spec)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        row.operations = json.loads(self._answer())["operations"]

    def turn(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._answer())
        self.row.times.append(answer["ms"])
        self.row.cpu_times.append(answer["cpu_ms"])
        self.row.host_mb, self.row.device_mb = answer["host_mb"], answer["device_mb"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"the process of row {self.row.name!r} ended; its error is above.")
        return line


def run_rows(rows: Sequence[Row], rounds: int, together: int) -> None:
    """Measure the rows of a table in turns, at most `together` at a time, the first row always among them."""
    first, *others = (row for row in rows if not row.missing)
    baseline = Worker(first)
    try:
        for start in range(0, len(others), together - 1):
            part = others[start : start + together - 1]
            turns_before = len(first.times)
            _take_turns(baseline, part, rounds)
            for row in part:
                row.baseline = first.times[turns_before:]
    finally:
        baseline.close()
    first.baseline = first.times


def _take_turns(baseline: Worker, rows: Sequence[Row], rounds: int) -> None:
    workers = [baseline]
    try:
        for row in rows:
            workers.append(Worker(row))
        for number in range(rounds):
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.turn()
    finally:
        for worker in workers[1:]:
            worker.close()


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """The figures that the project holds itself to, as far as their rows are there."""
    found = {row.name: row for row in rows if row.times}
    ratios = {}
    if "modist step" in found:
        ratios["step_speedup_vs_plain"] = found["modist step"].speedup
        used = {name: statistics.median(found[name].cpu_times) for name in ("plain", "modist step")}
        ratios["step_cpu_time_vs_plain"] = used["plain"] / used["modist step"]
    for peer, ours in (("pytorchvideo slow_r50", "modist R3D-50, bf16"), ("torchvision r3d_18", "modist R3D-18, bf16")):
        for dtype in ("fp32", "bf16"):
            if (name := f"{peer}, {dtype}") in found:
                ratios[f"backbone_speedup_vs_{peer.split()[0]}_{dtype}"] = found[name].median / found[ours].median
    return ratios


def print_rows(rows: Sequence[Row]) -> None:
    """A table for each part; speed-ups against its first row."""
    for table in dict.fromkeys(row.table for row in rows):
        print(f"\n{table}")
        header = f"{'':44}{'median ms':>10}{'p20':>9}{'p80':>9}{'CPU ms':>9}{'GFLOP':>8}{'TFLOP/s':>9}"
        print(f"{header}{'calls':>7}{'peak MB':>9}{'speed-up':>10}")
        chosen = [row for row in rows if row.table == table]
        for row in chosen:
            if not row.times:
                print(f"{row.name:44}{row.missing}")
                continue
            low, high = percentile(row.times, 0.2), percentile(row.times, 0.8)
            cells = f"{row.median:10.1f}{low:9.1f}{high:9.1f}{statistics.median(row.cpu_times):9.1f}"
            cells += f"{row.flops / 1e9:8.0f}{row.flops / row.median / 1e9:9.3f}"
            cells += f"{row.operations or '':>7}"
            print(f"{row.name:44}{cells}{row.device_mb or row.host_mb:9.0f}{row.speedup:9.2f}×")


def plot(path: Path, rows: Sequence[Row]) -> None:
    """A bar for each row, a chart for each table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tables = list(dict.fromkeys(row.table for row in rows if row.times))
    figure, charts = plt.subplots(len(tables), 1, figsize=(9, 0.35 * len(rows) + len(tables)), squeeze=False)
    for table, chart in zip(tables, charts[:, 0], strict=True):
        chosen = [row for row in rows if row.table == table and row.times]
        middle = [row.median for row in chosen]
        ends = [(row.median - percentile(row.times, 0.2), percentile(row.times, 0.8) - row.median) for row in chosen]
        colors = ["tab:blue" if row.name.startswith("modist") else "tab:gray" for row in chosen]
        places = range(len(chosen))
        chart.barh(places, middle, xerr=list(zip(*ends, strict=True)), color=colors)
        for place, row in enumerate(chosen):
            chart.text(percentile(row.times, 0.8), place, f"  {row.speedup:.2f}×", va="center", fontsize=8)
        chart.set_yticks(places, [row.name for row in chosen], fontsize=8)
        chart.invert_yaxis()
        chart.margins(x=0.1)
        chart.set_title(table, fontsize=9)
        chart.set_xlabel("ms (median, p20 to p80)", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    tables = [step_rows(options)] if options.part != "backbones" else []
    if options.part != "step":
        rows = backbone_rows(options)
        tables += [[row for row in rows if row.table == table] for table in dict.fromkeys(row.table for row in rows)]
    for table in tables:
        begun = time.perf_counter()
        run_rows(table, options.rounds, options.together)
        print(f"{len(table)} rows in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    rows = [row for table in tables for row in table]
    print_rows(rows)
    ratios = ratios_of(rows)
    print()
    for key, value in ratios.items():
        print(f"{key} {value:.2f}")
    if options.json:
        found = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        record = {"rows": [asdict(row) for row in rows], "ratios": ratios, "environment": found}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(options.plot, rows)
