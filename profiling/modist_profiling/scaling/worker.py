"""A process of bench_scaling.py: takes training steps, measures its link or counts its messages, as asked.

    [torchrun …] profiling/modist_profiling/scaling/worker.py SPEC        (SPEC: JSON, see `bench.measure`)

Rank 0 reads a command a line from standard input, tells the others, and answers each with a line of JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from modist_fast.config import TrainConfig
from modist_fast.host.allocator import keep_freed_memory
from modist_fast.host.distributed import World, gather_rows, join_world
from modist_fast.presets import find_preset
from modist_fast.step import TrainingStep
from modist_fast.watch.budget import PHASES, WARM_UP_STEPS
from modist_fast.watch.budget_keeper import BudgetKeeper, facts_of
from modist_fast.watch.metrics import Display, Recorder
from modist_profiling.scaling.link import CollectiveCounter, bytes_sent_on_sockets
from modist_profiling.step.worker import fill_bank, made_up_batch

BUCKET_BYTES = 25 << 20  # DDP's default
COUNTED_STEPS = WARM_UP_STEPS
"""Until the first window of the step budget is due, so that its message is counted too."""


def config_of(preset: str, **changes: Any) -> TrainConfig:
    """A preset with another `crop`, `batch`, `group` or `bank`."""
    config = find_preset(preset)(Path(), Path())
    return replace(
        config,
        batch_size=changes.get("batch", config.batch_size),
        group_size=changes.get("group", config.group_size),
        clips=replace(config.clips, crop_size=changes.get("crop", config.clips.crop_size)),
        objective=replace(config.objective, bank_size=changes.get("bank", config.objective.bank_size)),
    )


class Timed:
    """Steps of one configuration on a made-up batch."""

    def __init__(self, config: TrainConfig, world: World) -> None:
        self._world, self._rate = world, config.optim.lr
        self._step = TrainingStep(config, world)
        fill_bank(self._step.model.bank.keys, self._step.model.bank.video_ids)
        self._batch = made_up_batch(config, world.device, world.size)

    def __call__(self) -> dict[str, Any]:
        """Take two steps, and measure the second.

        Returns:
            Its seconds (the slowest process's), and as means over the processes the CPU seconds, all threads of a
            process together, and the seconds of each phase.
        """
        self._step(self._batch, self._rate)  # while others had their turn, this process's memory became cold
        dist.barrier()
        self._step.spans.take()
        begun, cpu_before = time.perf_counter(), time.process_time()
        self._step(self._batch, self._rate)
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_before
        phases = self._step.spans.take().seconds()
        mine = [seconds, cpu_seconds, *(phases.get(name, 0.0) for name in PHASES)]
        rows = gather_rows(mine, self._world.device)
        _, mean_cpu, *means = rows.mean(dim=0).tolist()
        slowest = rows[:, 0].max().item()
        return {"time": slowest, "cpu_time": mean_cpu, "phases": dict(zip(PHASES, means, strict=True))}


def measure_link() -> dict[str, float]:
    """Seconds of a small all_reduce, and bytes/s of one as large as DDP's buckets; nothing else runs meanwhile."""
    small, large = torch.zeros(16, dtype=torch.int32), torch.zeros(BUCKET_BYTES // 4)
    latency = statistics.median(_seconds(small) for _ in range(50))
    return {"latency": latency, "bytes_per_s": large.nbytes / statistics.median(_seconds(large) for _ in range(9))}


def _seconds(tensor: torch.Tensor) -> float:
    dist.barrier()
    begun = time.perf_counter()
    dist.all_reduce(tensor)
    return time.perf_counter() - begun


def count(config: TrainConfig, world: World) -> dict[str, Any]:
    """What this rank sends in `COUNTED_STEPS` steps as the trainer takes them, their figures and budget included."""
    step = TrainingStep(config, world)
    batch = made_up_batch(config, world.device, world.size)
    with tempfile.TemporaryDirectory() as folder:
        facts = facts_of(config, world, step.dtype, "made up", None)
        budget = BudgetKeeper(world, facts, Path(folder))
        recorder = Recorder(
            config.batch_size, step.spans, None, Display(COUNTED_STEPS, 0, False), budget, step.gradients
        )
        dist.barrier()
        before = bytes_sent_on_sockets()
        with CollectiveCounter(lambda: step.spans.phase) as counter:
            for number in range(COUNTED_STEPS):
                figures = step(batch, config.optim.lr)
                recorder.push(replace(batch, step=number), config.optim.lr, figures, stop=False)
            recorder.flush()
        dist.barrier()
        sockets = bytes_sent_on_sockets() - before
        budget.close()
    kinds = [{**asdict(kind), "bytes": counter.num_bytes[kind], "calls": counter.calls[kind]} for kind in counter.calls]
    return {"steps": COUNTED_STEPS, "sockets": sockets, "messages": kinds}


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        keep_freed_memory(world.device)  # as the trainer does
        commands: dict[str, Callable[[], dict[str, Any]]] = {"link": measure_link}
        for name, changes in spec["runs"].items():
            commands[name] = Timed(config_of(**changes), world)
            for _ in range(3):  # what is slow at first
                commands[name]()
        answer(world, {"ready": list(commands)})
        for line in iter(lambda: told(world), ""):
            command = json.loads(line)
            if "count" in command:
                answer(world, count(config_of(**command["count"]), world))
            else:
                answer(world, commands[command["run"]]())


def told(world: World) -> str:
    """The next command, the same on every rank; "" when there is none."""
    line = [sys.stdin.readline() if world.is_main else ""]
    dist.broadcast_object_list(line, 0)
    return line[0]


def answer(world: World, value: dict[str, Any]) -> None:
    if world.is_main:
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
