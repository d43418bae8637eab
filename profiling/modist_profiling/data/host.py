"""What the host does for a frame besides decoding and augmenting it: plan, read, hand over to DALI.

    python profiling/bench_host.py --store STORE [--batch-size 32] [--steps 20] [--rounds 5] [--json FILE]

CPU time of one thread, for the graph that a GPU runs (here DALI's CPU build of it, whose own run is taken off): what
one process must do for each frame however fast the accelerator decodes. A GPU that takes 1000 samples of 48 frames a
second asks for 48 000 of these, so 15 µs each keep one core of its sixteen 72 % busy.
"""

import argparse
import json
import statistics
import threading
import time
from pathlib import Path

import torch

from modist_pipelines.clips.backends import GpuDecoder
from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.plan import ClipSpec, PlanConfig
from modist_pipelines.store.reader import Store
from modist_profiling.frame import environment

PHASES = ("plan and read", "hand over")


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


def measure(store: Store, batch_size: int, num_steps: int, rounds: int) -> list[dict[str, float]]:
    """Microseconds a frame by phase, one dictionary a round, after one that is thrown away."""
    plan = PlanConfig(ClipSpec(8, 8), ClipSpec(16, 4), crop_size=112, grid=store.grid, motion_threshold=0.02)
    loader = ClipLoader(store, plan, batch_size=batch_size, seed=0, num_threads=1)
    kinds: tuple[Kind, ...] = ("visual", "motion")
    decoders: dict[Kind, GpuDecoder] = {
        kind: GpuDecoder(kind, plan, "jpeg", num_clips=2 * batch_size, num_threads=1, device=torch.device("cpu"))
        for kind in kinds
    }
    found = []
    clock = HostClock()
    for decoder in decoders.values():
        clock.watch(decoder.graph)
    for number in range(rounds + 1):
        clock.seconds, clock.num_frames = dict.fromkeys(PHASES, 0.0), 0
        for step in range(number * num_steps, (number + 1) * num_steps):
            clock.step(loader, decoders, step)
        if number:
            found.append({phase: 1e6 * seconds / clock.num_frames for phase, seconds in clock.seconds.items()})
    loader.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = measure(Store.open(options.store), options.batch_size, options.steps, options.rounds)
    medians = {phase: statistics.median(found[phase] for found in rounds) for phase in PHASES}
    totals = [sum(found.values()) for found in rounds]
    for phase, value in medians.items():
        print(f"{phase:14} {value:5.1f} µs a frame")
    print(f"host_us_per_frame {statistics.median(totals):.1f}   ({min(totals):.1f} - {max(totals):.1f})")
    if options.json is not None:
        record = {"rounds": rounds, "host_us_per_frame": statistics.median(totals)}
        record["environment"] = environment(torch.device("cpu"))
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
