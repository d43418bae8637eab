"""One process against two: strong and weak scaling on this machine, bytes sent, and the model next to the measurement.

    modist bench scaling                       # some minutes on 2 cores; CPU figures only
    modist bench scaling --json scaling.json

Steps of a preset on made-up batches: modist_fast.step.TrainingStep, as pretrain.py runs it, under torchrun on gloo.
Data is bench_pipeline.py's. Each process computes with one thread, alone or in company, so that two have twice the
means of one. The runs take turns, an untimed step and a timed one each, so that a disturbance falls on all of them;
medians are shown.

  one process      batch B, in two groups
  two apart        two processes at once that do not know each other: what the machine itself loses
  strong           two processes share the batch B, a group each
  weak             two processes with a batch of B each
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch

from modist_fast.commands.cli import parse_options
from modist_fast.errors import ConfigError
from modist_pipelines.ranges import COUNT, POSITIVE, ranged
from modist_profiling.frame.report import Report, conditions, print_rows
from modist_profiling.frame.rows import Row, Worker, turns
from modist_profiling.scaling.sent_bytes import Sent, minimum_bytes, print_sent, sent_of
from modist_profiling.scaling.throughput_model import Link, ParallelStep, parallel_step
from modist_profiling.scaling.worker import BUCKET_BYTES, config_of

WORKER = "modist_profiling.scaling.worker"
_ONCE_A_STEP = ("momentum", "optimizer")  # phases that take as long whatever the batch


@dataclass(frozen=True)
class Options(Report):
    """Scaling from one process to two."""

    preset: str = "modist-r18-128"
    """Recipe of the step."""
    batch: int = ranged(8, COUNT)
    """B: samples of a step of one process."""
    crop: int = ranged(64, COUNT)
    """Smaller than the preset's 128: less to compute for the same gradients, so that messages weigh more."""
    bank: int = ranged(65536, COUNT)
    """Keys in each bank."""
    rounds: int = ranged(9, COUNT)
    """Turns of each run."""
    seconds: float = ranged(300.0, POSITIVE)
    """No further turn after this time; three turns at least."""
    counted: tuple[str, ...] = ("demo", "modist-r18-128", "modist-r50")
    """Presets whose messages are counted: their own batch, on crops of 32², since crops do not travel."""


@dataclass(kw_only=True)
class ScalingRow(Row):
    """A run: its steps, the slowest process's time of each, and what the model makes of it in the same turn."""

    num_processes: int
    batch: int
    alone: int
    """Batch of one process by itself, which the baseline is."""
    phases: list[dict[str, float]] = field(default_factory=list)
    models: list[ParallelStep] = field(default_factory=list)

    unit: ClassVar = "s"
    derived: ClassVar = (*Row.derived, "cpu_per_sample", "efficiency")

    def add(self, answer: Mapping[str, Any]) -> None:
        super().add(answer)
        self.phases.append(answer["phases"])

    @property
    def cpu_per_sample(self) -> float:
        """CPU seconds of all processes, for each sample."""
        return self.cpu_median * self.num_processes / self.batch

    @property
    def efficiency(self) -> float:
        """Samples a second of each process against those of one alone; the median of the turns."""
        share = self.batch / self.num_processes / self.alone
        return statistics.median(share * one / mine for mine, one in zip(self.times, self.baseline, strict=True))

    def phase(self, name: str) -> float:
        """Median seconds of a phase."""
        return statistics.median(phases.get(name, 0.0) for phases in self.phases)

    @property
    def error(self) -> float:
        """Of the model's step, relative to the measured one; the median of the turns."""
        turns = zip(self.models, self.times, strict=True)
        return statistics.median(model.seconds / seconds - 1 for model, seconds in turns)

    def cells(self) -> dict[str, str]:
        seconds = {"step": self.median, "waits: gather": self.phase("gather"), "all_reduce": self.phase("all_reduce")}
        for head, name in (("step", "seconds"), ("gather", "gather"), ("all_reduce", "reduce")):
            seconds[f"model: {head}"] = statistics.median(getattr(model, name) for model in self.models)
        return {
            "processes": str(self.num_processes),
            "batch": str(self.batch),
            "samples/s": f"{self.batch / self.median:.2f}",
            "efficiency": f"{100 * self.efficiency:.0f} %",
            "CPU a sample": f"{self.cpu_per_sample:.3f} s",
            **{head: f"{value:.3f} s" for head, value in seconds.items()},
            "error of the step": f"{100 * self.error:+.0f} %",
        }


def count_sent(pair: Worker, presets: Sequence[str]) -> list[Sent]:
    """Have two processes count what they send."""
    found = []
    for preset in presets:
        changes = {"preset": preset, "crop": 32, "bank": 1024}
        found.append(sent_of(preset, config_of(**changes), 2, pair.ask(count=changes)))
    return found


def measure(options: Options) -> tuple[list[ScalingRow], list[Link], list[Sent]]:
    """Run everything: rows without their model, the link at each turn, bytes."""
    batch = options.batch
    common = {"preset": options.preset, "crop": options.crop, "bank": options.bank, "group": batch // 2}
    sizes = {"one process": (1, batch), "two apart": (2, 2 * batch), "strong": (2, batch), "weak": (2, 2 * batch)}
    title = f"{options.preset}, crops of {options.crop}²"
    rows = {name: ScalingRow(title, name, num_processes=n, batch=b, alone=batch) for name, (n, b) in sizes.items()}

    def start(num_processes: int, *names: str) -> Worker:
        spec = {"runs": {name: {**common, "batch": rows[name].batch} for name in names}}
        worker = Worker(", ".join(names), WORKER, spec, num_processes, OMP_NUM_THREADS="1")
        return started.enter_context(closing(worker))

    with ExitStack() as started:
        first, _ = both = [start(1, "one process") for _ in range(2)]
        pair = start(2, "strong", "weak")
        links = []
        for _ in turns(options.rounds, options.seconds):
            rows["one process"].add(first.ask(run="one process"))
            for process in both:
                process.tell(run="one process")
            answers = [process.answer() for process in both]
            # They do not wait for each other, so the mean is what a process keeps of its speed.
            means = {name: (answers[0][name] + answers[1][name]) / 2 for name in ("time", "cpu_time")}
            rows["two apart"].add({**means, "phases": {}})
            for name in ("strong", "weak"):
                rows[name].add(pair.ask(run=name))
            links.append(Link(**pair.ask(run="link")))
        sent = count_sent(pair, options.counted)
    for row in rows.values():
        row.baseline = rows["one process"].times
    return list(rows.values()), links, sent


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

    def predict(self, row: ScalingRow, minimum: Mapping[str, int], buckets: int) -> ParallelStep:
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


def constants_of(one: ScalingRow, apart: ScalingRow, link: Link, turn: int) -> Constants:
    """From what one turn measured."""
    seconds = one.times[turn]
    once = sum(one.phases[turn].get(name, 0.0) for name in _ONCE_A_STEP)
    return Constants(once, (seconds - once) / one.batch, apart.times[turn] / seconds, link)


def add_model(rows: Sequence[ScalingRow], links: Sequence[Link], options: Options) -> list[Constants]:
    """Put the model's step of each turn into each row; returns the turns' constants."""
    one, apart = rows[:2]
    found = [constants_of(one, apart, link, turn) for turn, link in enumerate(links)]
    for row in rows:
        config = config_of(options.preset, batch=row.batch, group=options.batch // 2)
        minimum = minimum_bytes(config, row.num_processes)
        buckets = 1 + minimum["gradients"] // BUCKET_BYTES
        row.models = [constants.predict(row, minimum, buckets) for constants in found]
    return found


def ratios_of(rows: Sequence[ScalingRow], sent: Sequence[Sent]) -> dict[str, float]:
    """The figures that the project holds itself to."""
    one, apart, strong, weak = rows
    return {
        "comm_bytes_vs_minimum": max(found.ratio for found in sent),
        "socket_bytes_vs_minimum": max(found.sockets_ratio for found in sent),
        "strong_scaling_efficiency_2": strong.efficiency,
        "weak_scaling_efficiency_2": weak.efficiency,
        "machine_efficiency_2": apart.efficiency,
        "strong_scaling_cpu_efficiency_2": one.cpu_per_sample / strong.cpu_per_sample,
        "weak_scaling_cpu_efficiency_2": one.cpu_per_sample / weak.cpu_per_sample,
        "model_error": max(abs(strong.error), abs(weak.error)),
    }


def print_constants(constants: Sequence[Constants]) -> None:
    step, sample, company = (
        statistics.median(getattr(turn, name) for turn in constants) for name in ("per_step", "per_sample", "company")
    )
    rate, latency = (
        statistics.median(getattr(turn.link, name) for turn in constants) for name in ("bytes_per_s", "latency")
    )
    print(f"\nmeasured in the same turns: {step:.3f} s a step, {sample:.3f} s a sample, × {company:.2f} in company;")
    print(f"gloo {rate / 1e9:.2f} GB/s, {1e3 * latency:.2f} ms a message")


def main() -> None:
    options = parse_options(Options, description=__doc__)
    if options.batch % 4:
        raise ConfigError(f"--batch {options.batch}: two processes share it in groups of 2 or more; take 4, 8, ….")
    rows, links, sent = measure(options)
    constants = add_model(rows, links, options)
    print_rows(rows)
    print_constants(constants)
    print_sent(sent)
    found = conditions(torch.device("cpu")) | {"threads_of_a_process": 1}
    more = {"turns": [asdict(turn) for turn in constants], "bytes": [asdict(one) for one in sent]}
    options.give(rows, ratios_of(rows, sent), found, more=more)
