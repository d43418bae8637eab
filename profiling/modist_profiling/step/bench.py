"""One training step: this project's against the method written plainly, and what each of its choices is worth.

    modist bench step                          # CPU or GPU, some minutes on 2 cores
    modist bench step --json step.json --plot step.png

Part one, `step`: R3D-18 on 8 × 128² clips and 16 × 128² edge maps, one process. The baseline is plain_step.py; the
rows below it add one choice after another, the last is modist_fast.step.TrainingStep, as pretrain.py runs it.
Part two, `backbones`: forward and backward of R3D-50 and R3D-18 against PyTorchVideo's and torchvision's.
Each row is a process of its own, as a training run is; some of them, the table's first always among them, take turns,
so that a disturbance falls on all of them.
Clips are made up and wait in memory: data is bench_pipeline.py's.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from modist_fast.commands.cli import parse_options
from modist_fast.watch.budget_keeper import step_flops
from modist_fast.watch.rates import count_flops
from modist_kernels.dispatch import multiplies_bf16
from modist_pipelines.ranges import COUNT, ranged
from modist_profiling.frame.report import Report, by_table, conditions, find_device, print_rows
from modist_profiling.frame.rows import Row, Worker, digits, run_rows
from modist_profiling.step.launches import of_preset
from modist_profiling.step.peers import BACKBONES
from modist_profiling.step.plain import CHOICES
from modist_profiling.step.worker import step_config

WORKER = "modist_profiling.step.worker"


@dataclass(frozen=True)
class Options(Report):
    """Benchmark of the training step and its backbones."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    part: Literal["all", "step", "backbones"] = "all"
    """Which tables."""
    preset: str = "modist-r18-128"
    """Recipe of the step: nets and clips; modist-r50 with --crop 224 is the paper's."""
    batch: int = ranged(8, COUNT)
    """Samples of a step."""
    crop: int = ranged(128, COUNT)
    """Pixels of the clips' height and width."""
    bank: int = ranged(65536, COUNT)
    """Keys in each bank."""
    backbone_batch: int = ranged(2, COUNT)
    """Clips of 8 × 112² of a backbone's call."""
    threads: int = ranged(2, COUNT)
    """CPU threads."""
    rounds: int = ranged(11, COUNT)
    """Turns of each row."""
    together: int = ranged(6, COUNT)
    """Rows that are measured, and held in memory, at a time. The first of a table is always among them."""
    choices: bool = True
    """Rows for the choices between the plain step and the project's; False leaves these two."""
    compile: bool = False
    """Add a row with torch.compile (minutes at first on a CPU)."""


@dataclass(kw_only=True)
class StepRow(Row):
    """A training step, or a backbone forward and backward."""

    spec: dict[str, Any]
    flops: float = 0.0
    """Of the nets in one run."""
    operations: int = 0
    """Of a run, see `count_operations`; 0 where unknown."""
    host_mb: float = 0.0
    device_mb: float = 0.0

    derived: ClassVar = (*Row.derived, "cpu_median", "speedup")

    def add(self, answer: Mapping[str, Any]) -> None:
        super().add(answer)
        self.host_mb, self.device_mb = answer["host_mb"], answer["device_mb"]

    def cells(self) -> dict[str, str]:
        return super().cells() | {
            "CPU ms": digits(self.cpu_median),
            "GFLOP": f"{self.flops / 1e9:.0f}",
            "TFLOP/s": f"{self.flops / self.median / 1e9:.3f}",
            "calls": str(self.operations or ""),
            "peak MB": f"{self.device_mb or self.host_mb:.0f}",
            "speed-up": f"{self.speedup:.2f}×",
        }


def step_rows(options: Options) -> list[StepRow]:
    common = {name: getattr(options, name) for name in ("preset", "batch", "crop", "bank", "threads", "device")}
    common |= {"part": "step", "compile": False, "row": "plain"}
    config = step_config(common)
    flops = step_flops(config)
    net = f"R3D-{config.model.arch.removeprefix('r')}"
    table = f"training step: {net}, batch {options.batch}, {options.crop}², bank {options.bank}"
    rows = [StepRow(table, "plain", spec={**common, "choices": []}, flops=flops)]
    without_bf16 = _without_bf16(options.device)
    taken: list[str] = []
    for choice, title in CHOICES.items() if options.choices else ():
        missing = without_bf16 if choice == "bf16" else ""
        taken += [] if missing else [choice]
        spec = {**common, "choices": list(taken)}
        rows.append(StepRow(table, f"+ {title}", missing=missing, spec=spec, flops=flops))
    rows.append(StepRow(table, "modist step", spec={**common, "row": "modist"}, flops=flops))
    if options.compile:
        spec = {**common, "row": "modist", "compile": True}
        rows.append(StepRow(table, "modist step, torch.compile", spec=spec, flops=flops))
    return rows


def _without_bf16(device: str) -> str:
    """Why a row in bf16 is left out; empty where it is not. Emulated, a single turn takes minutes."""
    return "" if multiplies_bf16(find_device(device)) else "left out: this machine has no bf16 in hardware"


def backbone_rows(options: Options) -> list[StepRow]:
    rows = []
    for name, backbone in BACKBONES.items():
        spec = {"part": "backbone", "row": name, "batch": options.backbone_batch, "threads": options.threads}
        table = f"{backbone.table}, forward and backward: {options.backbone_batch} × 3 × 8 × 112²"
        missing = "" if backbone.is_installed else f"not installed (pip install {backbone.needs})"
        if backbone.format[0] == torch.bfloat16:
            missing = missing or _without_bf16(options.device)
        if missing:
            rows.append(StepRow(table, name, missing=missing, spec=spec))
            continue
        with torch.device("meta"):
            clips = torch.empty(options.backbone_batch, 3, 8, 112, 112)
            flops = count_flops(backbone.build(), [clips], backward=True)
        rows.append(StepRow(table, name, spec={**spec, "device": options.device}, flops=flops))
    return rows


def start(row: StepRow) -> Worker:
    """The process of a row."""
    worker = Worker(row.name, WORKER, row.spec)
    row.operations = worker.ready["operations"]
    return worker


def ratios_of(rows: Sequence[StepRow]) -> dict[str, float]:
    """The figures that the project holds itself to, as far as their rows are there."""
    found = {row.name: row for row in rows if row.times}
    ratios = {}
    if "modist step" in found:
        ratios["step_speedup_vs_plain"] = found["modist step"].speedup
        used = {name: found[name].cpu_median for name in ("plain", "modist step")}
        ratios["step_cpu_time_vs_plain"] = used["plain"] / used["modist step"]
    for peer, net in (("pytorchvideo slow_r50", "modist R3D-50"), ("torchvision r3d_18", "modist R3D-18")):
        ours = found.get(f"{net}, bf16") or found.get(f"{net}, fp32")  # as training would choose
        for dtype in ("fp32", "bf16"):
            if ours is not None and (name := f"{peer}, {dtype}") in found:
                ratios[f"backbone_speedup_vs_{peer.split()[0]}_{dtype}"] = found[name].median / ours.median
    return ratios


def launch_ratios() -> dict[str, float]:
    """What the step of modist-r50 hands to a GPU, counted on fake tensors: see `modist_profiling.step.launches`."""
    one, eight = (of_preset("modist-r50", num_groups) for num_groups in (1, 8))
    return {
        "step_launches_one_group": one.kernels.total(),
        "step_calls_one_group": one.calls.total(),
        "step_launches_eight_groups": eight.kernels.total(),
        "step_host_syncs": len(one.waits) + len(eight.waits),
        "norm_bytes_vs_unfused": one.norm_bytes / one.unfused_norm_bytes,
    }


def main() -> None:
    options = parse_options(Options, description=__doc__)
    rows = step_rows(options) if options.part != "backbones" else []
    rows += backbone_rows(options) if options.part != "step" else []
    counted = launch_ratios() if options.part != "backbones" else {}
    for table in by_table(rows).values():
        begun = time.perf_counter()
        run_rows(table, start, options.rounds, options.together)
        print(f"{len(table)} rows in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    print_rows(rows)
    options.give(rows, ratios_of(rows) | counted, conditions(find_device(options.device)))
