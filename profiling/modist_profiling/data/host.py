"""What the host does for a frame besides decoding and augmenting it: plan, read, hand over to DALI.

    modist bench host --store STORE [--batch-size 32] [--steps 20] [--rounds 5] [--json FILE]

CPU time of one thread, for the graph that a GPU runs (here DALI's CPU build of it, whose own run is taken off): what
one process must do for each frame however fast the accelerator decodes. A GPU that takes 1000 samples of 48 frames a
second asks for 48 000 of these, so 15 µs each keep one core of its sixteen 72 % busy.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from modist_fast.commands.cli import parse_options
from modist_pipelines.clips.backends import GpuDecoder
from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.plan import ClipSpec, PlanConfig
from modist_pipelines.ranges import COUNT, ranged
from modist_pipelines.store.reader import Store
from modist_profiling.frame.report import Report, conditions, print_rows
from modist_profiling.frame.rows import Row

PHASES = ("plan and read", "hand over")


@dataclass(frozen=True)
class Options(Report):
    """Host work of a frame."""

    store: Path
    """A store made by modist prepare."""
    batch_size: int = ranged(32, COUNT)
    """Samples of a step."""
    steps: int = ranged(10, COUNT)
    """Of a round."""
    rounds: int = ranged(5, COUNT)
    """Turns, after one that is thrown away."""


class HostRow(Row):
    """A phase; its turns are rounds."""

    unit: ClassVar = "µs"


class HostClock:
    """CPU seconds of the process by phase; what the graphs do is not counted."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.num_frames = 0
        self._in_graph = 0.0

    def watch(self, graph) -> None:
        """Take the runs of a graph off what is counted."""
        run = graph.run

        def timed():
            started = time.process_time()
            output = run()
            self._in_graph += time.process_time() - started
            return output

        graph.run = timed

    def step(self, loader: ClipLoader, decoders: dict[Kind, GpuDecoder], step: int) -> None:
        """Plan and read a step of the loader, and decode it by the graphs."""
        started = time.process_time()
        reads = loader.submit_reads(step)
        samples = loader.wait_for(reads, threading.Event())
        read = time.process_time()
        self._in_graph = 0.0
        for kind, decoder in decoders.items():
            decoder.decode([sample[kind] for sample in samples])
        self.seconds["plan and read"] += read - started
        self.seconds["hand over"] += time.process_time() - read - self._in_graph
        self.num_frames += len(samples) * sum(decoder.num_frames for decoder in decoders.values())


def measure(store: Store, options: Options) -> list[HostRow]:
    """Time a frame by phase, and in all, of each round, after one that is thrown away."""
    batch_size, num_steps = options.batch_size, options.steps
    plan = PlanConfig(ClipSpec(8, 8), ClipSpec(16, 4), crop_size=112, grid=store.grid, motion_threshold=0.02)
    loader = ClipLoader(store, plan, batch_size=batch_size, seed=0, num_threads=1)
    kinds: tuple[Kind, ...] = ("visual", "motion")
    decoders: dict[Kind, GpuDecoder] = {
        kind: GpuDecoder(kind, plan, "jpeg", num_clips=2 * batch_size, num_threads=1, device=torch.device("cpu"))
        for kind in kinds
    }
    title = "CPU time of the host, µs a frame"
    rows = [HostRow(title, name) for name in (*PHASES, "in all")]
    clock = HostClock()
    for decoder in decoders.values():
        clock.watch(decoder.graph)
    for number in range(options.rounds + 1):
        clock.seconds, clock.num_frames = dict.fromkeys(PHASES, 0.0), 0
        for step in range(number * num_steps, (number + 1) * num_steps):
            clock.step(loader, decoders, step)
        if number:
            seconds = [clock.seconds[phase] for phase in PHASES]
            for row, spent in zip(rows, (*seconds, sum(seconds)), strict=True):
                row.times.append(1e6 * spent / clock.num_frames)
    loader.close()
    return rows


def main() -> None:
    options = parse_options(Options, description=__doc__)
    rows = measure(Store.open(options.store), options)
    print_rows(rows)
    options.give(rows, {"host_us_per_frame": rows[-1].median}, conditions(torch.device("cpu")))
