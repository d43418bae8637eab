"""One process against two: strong and weak scaling on this machine, bytes sent, and the model next to the measurement.

    python profiling/bench_scaling.py                       # some minutes on 2 cores; CPU figures only
    python profiling/bench_scaling.py --json scaling.json

Steps of a preset on made-up batches: modist_fast.step.TrainingStep, as pretrain.py runs it, under torchrun on gloo.
Data is bench_pipeline.py's. Each process computes with one thread, alone or in company, so that two have twice the
means of one. The runs take turns, an untimed step and a timed one each, so that a disturbance falls on all of them;
medians are shown.

  one process      batch B, in two groups
  two apart        two processes at once that do not know each other: what the machine itself loses
  strong           two processes share the batch B, a group each
  weak             two processes with a batch of B each
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from modist_fast.errors import ConfigError
from modist_profiling.frame import environment
from modist_profiling.scaling.sent_bytes import Sent, minimum_bytes, print_sent, sent_of
from modist_profiling.scaling.throughput_model import Link, ParallelStep, parallel_step
from modist_profiling.scaling.worker import BUCKET_BYTES, config_of

WORKER = "modist_profiling.scaling.worker"
_ONCE_A_STEP = ("momentum", "optimizer")  # phases that take as long whatever the batch


@dataclass(frozen=True)
class Options:
    """Scaling from one process to two."""

    preset: str = "modist-r18-128"
    batch: int = 8
    """B: samples of a step of one process."""
    crop: int = 64
    """Smaller than the preset's 128: less to compute for the same gradients, so that messages weigh more."""
    bank: int = 65536
    rounds: int = 9
    """Turns of each run."""
    seconds: float = 300.0
    """No further turn after this time; three turns at least."""
    counted: tuple[str, ...] = ("demo", "modist-r18-128", "modist-r50")
    """Presets whose messages are counted: their own batch, on crops of 32², since crops do not travel."""
    json: Path | None = None


class Processes:
    """One or more processes of scaling_worker.py that wait for commands."""

    def __init__(self, runs: Mapping[str, Mapping[str, Any]], num: int) -> None:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)] if num > 1 else []
        self._process = subprocess.Popen(
            [sys.executable, *torchrun, "-m", WORKER, json.dumps({"runs": runs})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.answer()

    def tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError("a process of the benchmark ended; its error is above.")
        return json.loads(line)

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.answer()

    def close(self) -> None:
        """The end of their input is the end of their work."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Row:
    """A run: its steps, and what the model makes of each, by the constants measured in the same turn."""

    name: str
    num_processes: int
    batch: int
    seconds: list[float] = field(default_factory=list)
    """Of each step, of the slowest process."""
    cpu_seconds: list[float] = field(default_factory=list)
    """That a process computed for it, all its threads together: other work on the machine hardly changes these."""
    phases: list[dict[str, float]] = field(default_factory=list)
    models: list[ParallelStep] = field(default_factory=list)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Take in what a worker says of a step."""
        self.seconds.append(answer["seconds"])
        self.cpu_seconds.append(answer["cpu_seconds"])
        self.phases.append(answer["phases"])

    @property
    def step(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_per_sample(self) -> float:
        """CPU seconds of all processes, for each sample."""
        return statistics.median(self.cpu_seconds) * self.num_processes / self.batch

    def efficiency(self, one: "Row") -> float:
        """Samples a second of each process against those of one alone; the median of the turns."""
        turns = zip(self.seconds, one.seconds, strict=True)
        return statistics.median(self.batch / mine / self.num_processes * theirs / one.batch for mine, theirs in turns)

    def phase(self, name: str) -> float:
        """Median seconds of a phase."""
        return statistics.median(phases.get(name, 0.0) for phases in self.phases)

    @property
    def error(self) -> float:
        """Of the model's step, relative to the measured one; the median of the turns."""
        turns = zip(self.models, self.seconds, strict=True)
        return statistics.median(model.seconds / seconds - 1 for model, seconds in turns)


def count_sent(pair: Processes, presets: Sequence[str]) -> list[Sent]:
    """Have two processes count what they send."""
    found = []
    for preset in presets:
        changes = {"preset": preset, "crop": 32, "bank": 1024}
        found.append(sent_of(preset, config_of(**changes), 2, pair.ask(count=changes)))
    return found


def measure(options: Options) -> tuple[list[Row], list[Link], list[Sent]]:
    """Run everything: rows without their model, the link at each turn, bytes."""
    batch = options.batch
    common = {"preset": options.preset, "crop": options.crop, "bank": options.bank, "group": batch // 2}
    one, apart = Row("one process", 1, batch), Row("two apart", 2, 2 * batch)
    shared = {"strong": Row("strong", 2, batch), "weak": Row("weak", 2, 2 * batch)}
    started: list[Processes] = []
    try:
        started += [Processes({"alone": {**common, "batch": batch}}, 1) for _ in range(2)]
        first, second = started
        pair = Processes({name: {**common, "batch": row.batch} for name, row in shared.items()}, 2)
        started.append(pair)
        links = []
        begun = time.perf_counter()
        for turn in range(options.rounds):
            if turn >= 3 and time.perf_counter() - begun > options.seconds:
                break
            one.add(first.ask(run="alone"))
            for process in (first, second):
                process.tell(run="alone")
            answers = [process.answer() for process in (first, second)]
            # They do not wait for each other, so the mean is what a process keeps of its speed.
            means = {name: (answers[0][name] + answers[1][name]) / 2 for name in ("seconds", "cpu_seconds")}
            apart.add({**means, "phases": {}})
            for name, row in shared.items():
                row.add(pair.ask(run=name))
            links.append(Link(**pair.ask(run="link")))
        sent = count_sent(pair, options.counted)
    finally:
        for processes in started:
            processes.close()
    return [one, apart, *shared.values()], links, sent


@dataclass(frozen=True)
class Constants:
    """What the model takes from the machine."""

    per_step: float
    """Seconds of momentum update and optimizer, of one process by itself."""
    per_sample: float
    """Seconds of the rest of its step, for each sample."""
    company: float
    """How much longer a process computes while another does so beside it."""
    link: Link

    def predict(self, row: Row, minimum: Mapping[str, int], buckets: int) -> ParallelStep:
        """The model's step of a run."""
        local = row.batch // row.num_processes
        compute = self.per_step + local * self.per_sample
        if row.num_processes > 1:
            compute *= self.company
        if row.name == "two apart":
            return ParallelStep(compute, 0.0, 0.0)
        return parallel_step(
            compute,
            row.num_processes,
            key_bytes=minimum["keys"],
            gradient_bytes=minimum["gradients"],
            gather=self.link,
            reduce=self.link,
            small_messages=1,  # video ids
            buckets=buckets,
        )


def constants_of(one: Row, apart: Row, link: Link, turn: int) -> Constants:
    """From what one turn measured."""
    seconds = one.seconds[turn]
    once = sum(one.phases[turn].get(name, 0.0) for name in _ONCE_A_STEP)
    return Constants(once, (seconds - once) / one.batch, apart.seconds[turn] / seconds, link)


def add_model(rows: Sequence[Row], links: Sequence[Link], options: Options) -> list[Constants]:
    """Put the model's step of each turn into each row; returns the turns' constants."""
    one, apart = rows[:2]
    found = [constants_of(one, apart, link, turn) for turn, link in enumerate(links)]
    for row in rows:
        config = config_of(options.preset, batch=row.batch, group=options.batch // 2)
        minimum = minimum_bytes(config, row.num_processes)
        buckets = 1 + minimum["gradients"] // BUCKET_BYTES
        row.models = [constants.predict(row, minimum, buckets) for constants in found]
    return found


def ratios_of(rows: Sequence[Row], sent: Sequence[Sent]) -> dict[str, float]:
    """The figures that the project holds itself to."""
    one, apart, strong, weak = rows
    return {
        "comm_bytes_vs_minimum": max(found.ratio for found in sent),
        "socket_bytes_vs_minimum": max(found.sockets_ratio for found in sent),
        "strong_scaling_efficiency_2": strong.efficiency(one),
        "weak_scaling_efficiency_2": weak.efficiency(one),
        "machine_efficiency_2": apart.efficiency(one),
        "strong_scaling_cpu_efficiency_2": one.cpu_per_sample / strong.cpu_per_sample,
        "weak_scaling_cpu_efficiency_2": one.cpu_per_sample / weak.cpu_per_sample,
        "model_error": max(abs(strong.error), abs(weak.error)),
    }


def print_rows(rows: Sequence[Row], turns: Sequence[Constants]) -> None:
    """Markdown: each run, measured, and by the model."""
    heads = ("run", "processes", "batch", "samples/s", "efficiency", "CPU a sample", "step", "waits: gather")
    print(f"| {' | '.join((*heads, 'all_reduce', 'model: step', 'gather', 'all_reduce', 'error of the step'))} |")
    print("| --- " * (len(heads) + 5) + "|")
    for row in rows:
        cells = [row.name, str(row.num_processes), str(row.batch), f"{row.batch / row.step:.2f}"]
        cells += [f"{100 * row.efficiency(rows[0]):.0f} %", f"{row.cpu_per_sample:.3f} s"]
        models = row.models
        middle = [statistics.median(m.seconds for m in models), statistics.median(m.gather for m in models)]
        middle.append(statistics.median(m.reduce for m in models))
        cells += [f"{value:.3f} s" for value in (row.step, row.phase("gather"), row.phase("all_reduce"), *middle)]
        print(f"| {' | '.join(cells)} | {100 * row.error:+.0f} % |")
    step, sample, company = (
        statistics.median(getattr(turn, name) for turn in turns) for name in ("per_step", "per_sample", "company")
    )
    rate, latency = (
        statistics.median(getattr(turn.link, name) for turn in turns) for name in ("bytes_per_s", "latency")
    )
    print(f"\nmeasured in the same turns: {step:.3f} s a step, {sample:.3f} s a sample, × {company:.2f} in company;")
    print(f"gloo {rate / 1e9:.2f} GB/s, {1e3 * latency:.2f} ms a message")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.batch % 4:
        raise ConfigError(f"--batch {options.batch}: two processes share it in groups of 2 or more; take 4, 8, ….")
    rows, links, sent = measure(options)
    turns = add_model(rows, links, options)
    print_rows(rows, turns)
    print_sent(sent)
    ratios = ratios_of(rows, sent)
    print()
    for key, value in ratios.items():
        print(f"{key} {value:.4f}")
    if options.json:
        record = {
            "rows": [asdict(row) for row in rows],
            "turns": [asdict(turn) for turn in turns],
            "bytes": [asdict(found) for found in sent],
            "ratios": ratios,
            "environment": environment(torch.device("cpu")) | {"threads_of_a_process": 1},
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
