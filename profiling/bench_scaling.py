"""One process against two: strong and weak scaling on this machine, bytes sent, and the model next to the measurement.

    python profiling/bench_scaling.py                       # some minutes on 2 cores; CPU figures only
    python profiling/bench_scaling.py --json scaling.json

Steps of a preset on made-up batches: modist_fast.step.TrainingStep, as pretrain.py runs it, under torchrun on gloo.
Data is bench_pipeline.py's. Each process computes with one thread, alone or in company, so that two have twice the
means of one. The runs take turns, a step each, so that a disturbance falls on all of them; medians are shown.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from modist_fast.cli import run_cli
from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.pathways import Pathways
from modist_profiling.benchmark import environment
from modist_profiling.throughput_model import Link, ParallelStep, parallel_step
from scaling_worker import config_of

WORKER = Path(__file__).with_name("scaling_worker.py")
PURPOSES = {
    ("backward", "allreduce_", "float32"): "gradients",
    ("gather", "_allgather_base_", "float32"): "keys",
    ("gather", "allreduce_", "int32"): "video ids",
}
"""What must travel. Everything else is "other": figures for the log, windows of the budget, what DDP adds."""
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
    counted: tuple[str, ...] = ("demo", "modist-r18-128", "modist-r50")
    """Presets whose messages are counted: their own batch, on crops of 32², since crops do not travel."""
    json: Path | None = None


class Processes:
    """One or more processes of scaling_worker.py that wait for commands."""

    def __init__(self, runs: Mapping[str, Mapping[str, Any]], num: int) -> None:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)] if num > 1 else []
        self._process = subprocess.Popen(
            [sys.executable, *torchrun, str(WORKER), json.dumps({"runs": runs})],
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
    """A run: its steps, and what the model makes of it."""

    name: str
    num_processes: int
    batch: int
    seconds: list[float] = field(default_factory=list)
    """Of each step, of the slowest process."""
    phases: list[dict[str, float]] = field(default_factory=list)
    model: ParallelStep | None = None

    @property
    def step(self) -> float:
        return statistics.median(self.seconds)

    @property
    def samples_per_s(self) -> float:
        return self.batch / self.step

    def phase(self, *names: str) -> float:
        """Median seconds of some phases together."""
        return statistics.median(sum(phases[name] for name in names) for phases in self.phases)

    @property
    def error(self) -> float:
        """Of the model's step, relative to the measured one."""
        assert self.model is not None
        return self.model.seconds / self.step - 1


def minimum_bytes(config: TrainConfig, num_processes: int) -> dict[str, int]:
    """What a process has to give a step: float32 gradients, float32 keys of its share, int32 video ids of the batch.

    Any process may find any sample damaged, so each speaks of all ids. From shapes alone; nothing is run.
    """
    with torch.device("meta"):
        nets = Pathways(config.model, config.objective.motion)
    num_modalities = 2 if config.objective.motion else 1
    local = config.batch_size // num_processes
    return {
        "gradients": 4 * sum(weight.numel() for weight in nets.parameters() if weight.requires_grad),
        "keys": 4 * num_modalities * local * config.model.embedding_dim,
        "video ids": 4 * config.batch_size,
    }


def by_purpose(messages: Sequence[Mapping[str, Any]], steps: int) -> dict[str, float]:
    """Bytes a step of each purpose, from the kinds of messages that `CollectiveCounter` met."""
    found = dict.fromkeys((*PURPOSES.values(), "other"), 0.0)
    for kind in messages:
        found[PURPOSES.get((kind["phase"], kind["operation"], kind["dtype"]), "other")] += kind["bytes"] / steps
    return found


@dataclass(frozen=True)
class Sent:
    """What a preset's processes send a step."""

    preset: str
    counted: dict[str, float]
    minimum: dict[str, int]
    sockets: float
    """Bytes a step that left through the sockets, by the kernel's count."""

    @property
    def ratio(self) -> float:
        return sum(self.counted.values()) / sum(self.minimum.values())


def count_sent(pair: Processes, presets: Sequence[str]) -> list[Sent]:
    found = []
    for preset in presets:
        changes = {"preset": preset, "crop": 32, "bank": 1024}
        answer = pair.ask(count=changes)
        counted = by_purpose(answer["messages"], answer["steps"])
        minimum = minimum_bytes(config_of(**changes), 2)
        found.append(Sent(preset, counted, minimum, answer["sockets"] / answer["steps"]))
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
        for _ in range(options.rounds):
            _add(one, first.ask(run="alone"))
            for process in (first, second):
                process.tell(run="alone")
            answers = [process.answer() for process in (first, second)]
            # They do not wait for each other, so the mean is what a process keeps of its speed.
            apart.seconds.append(statistics.mean(answer["seconds"] for answer in answers))
            apart.phases.append(answers[0]["phases"])
            for name, row in shared.items():
                _add(row, pair.ask(run=name))
            links.append(Link(**pair.ask(run="link")))
        sent = count_sent(pair, options.counted)
    finally:
        for processes in started:
            processes.close()
    return [one, apart, *shared.values()], links, sent


def _add(row: Row, answer: Mapping[str, Any]) -> None:
    row.seconds.append(answer["seconds"])
    row.phases.append(answer["phases"])


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


def constants_of(one: Row, apart: Row, links: Sequence[Link]) -> Constants:
    once = one.phase(*_ONCE_A_STEP)
    return Constants(
        per_step=once,
        per_sample=(one.step - once) / one.batch,
        company=apart.step / one.step,
        link=Link(
            statistics.median(link.bytes_per_s for link in links), statistics.median(link.latency for link in links)
        ),
    )


def add_model(rows: Sequence[Row], constants: Constants, options: Options) -> None:
    """Put the model's step into each row."""
    for row in rows:
        config = config_of(options.preset, batch=row.batch, group=options.batch // 2)
        minimum = minimum_bytes(config, row.num_processes)
        buckets = 1 + minimum["gradients"] // (25 << 20)  # of DDP's 25 MiB
        row.model = constants.predict(row, minimum, buckets)


def ratios_of(rows: Sequence[Row], sent: Sequence[Sent]) -> dict[str, float]:
    """The figures that the project holds itself to."""
    one, apart, strong, weak = rows
    return {
        "comm_bytes_vs_minimum": max(found.ratio for found in sent),
        "strong_scaling_efficiency_2": strong.samples_per_s / one.samples_per_s / 2,
        "weak_scaling_efficiency_2": weak.samples_per_s / one.samples_per_s / 2,
        "machine_efficiency_2": apart.samples_per_s / one.samples_per_s / 2,
        "model_error": max(abs(strong.error), abs(weak.error)),
    }


def print_rows(rows: Sequence[Row], constants: Constants) -> None:
    print("| run | processes | batch | samples/s | efficiency | step | waits: gather | all_reduce | model | error |")
    print("| --- " * 10 + "|")
    one = rows[0]
    for row in rows:
        assert row.model is not None
        efficiency = row.samples_per_s / one.samples_per_s / row.num_processes
        print(
            f"| {row.name} | {row.num_processes} | {row.batch} | {row.samples_per_s:.2f} | {100 * efficiency:.0f} % | "
            f"{row.step:.2f} s | {row.phase('gather'):.3f} s | {row.phase('all_reduce'):.3f} s | "
            f"{row.model.seconds:.2f} s | {100 * row.error:+.0f} % |"
        )
    link = constants.link
    print(
        f"\nconstants, measured in the same turns: {constants.per_step:.3f} s a step, {constants.per_sample:.3f} s a "
        f"sample, × {constants.company:.2f} in company;\ngloo {link.bytes_per_s / 1e9:.2f} GB/s, "
        f"{1e3 * link.latency:.2f} ms a message"
    )


def print_sent(sent: Sequence[Sent]) -> None:
    print("\n| bytes a process gives a step | gradients | keys | video ids | other | over minimum | on its sockets |")
    print("| --- " * 7 + "|")
    for found in sent:
        cells = " | ".join(
            f"{value:,.0f} (+{value - found.minimum.get(name, 0):.0f})" for name, value in found.counted.items()
        )
        print(f"| {found.preset} | {cells} | {found.ratio:.5f} | {found.sockets:,.0f} |")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.batch % 4:
        raise ConfigError(f"--batch {options.batch}: two processes share it in groups of 2 or more; take 4, 8, ….")
    rows, links, sent = measure(options)
    constants = constants_of(rows[0], rows[1], links)
    add_model(rows, constants, options)
    print_rows(rows, constants)
    print_sent(sent)
    ratios = ratios_of(rows, sent)
    print()
    for key, value in ratios.items():
        print(f"{key} {value:.4f}")
    if options.json:
        record = {
            "rows": [asdict(row) for row in rows],
            "constants": asdict(constants),
            "bytes": [asdict(found) for found in sent],
            "ratios": ratios,
            "environment": environment(torch.device("cpu")) | {"threads_of_a_process": 1},
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
