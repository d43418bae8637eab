"""Train for some epochs and watch from outside: memory and file descriptors must stay as they are.

    modist soak --store STORE --out RUN [--epochs 3] [--processes 2] [--json FILE] [-- pretrain options]

The first epoch is the warm-up: allocators and file caches fill. Then the second epoch is compared with the rest.
Exit code 1 where memory grew by more than --tolerance or file descriptors were left open.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from modist_fast.commands.cli import Parser
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import default_processes
from modist_fast.host.processes import command
from modist_fast.run.files import traces
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.ranges import COUNT, FROM_ZERO, POSITIVE


@dataclass
class Watched:
    """Samples of one process."""

    pid: int
    seconds: list[float] = field(default_factory=list)
    """Since the command began."""
    resident_mb: list[float] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)
    """Open file descriptors."""

    def add(self, seconds: float, resident_mb: float, num_files: int) -> None:
        """One more sample."""
        self.seconds.append(seconds)
        self.resident_mb.append(resident_mb)
        self.num_files.append(num_files)


@dataclass(frozen=True)
class Flatness:
    """How a process was after its warm-up, and how it ended."""

    pid: int
    warm_mb: float
    last_mb: float
    """Median resident memory of either window: a passing peak is no leak."""
    warm_files: float
    last_files: float
    """Median number of open file descriptors in either window."""

    @property
    def growth(self) -> float:
        """Share by which resident memory grew."""
        return self.last_mb / self.warm_mb - 1


def lasting(watched: Sequence[Watched], moment: float) -> list[Watched]:
    """Those that were still there at a moment, in seconds.

    A child that comes and goes has its parent's command line between fork and exec, and may be seen there.
    """
    return [process for process in watched if process.seconds[-1] >= moment]


def watch(
    command: Sequence[str], of_interest: Callable[[str], bool], *, interval: float = 0.25, **options: Any
) -> tuple[int, list[Watched]]:
    """Run a command and sample those of its processes that are of interest.

    Args:
        command: as for subprocess.
        of_interest: whether to watch a process with this command line; the launcher of the others is seldom one.
        interval: seconds between samples.
        options: for subprocess.Popen.

    Returns:
        The exit code, and the samples of each process in order of pid.
    """
    process = subprocess.Popen(command, **options)
    started = time.monotonic()
    watched: dict[int, Watched] = {}
    while process.poll() is None:
        for one in family(process.pid):
            with suppress(psutil.NoSuchProcess):  # it ended in between
                if of_interest(" ".join(one.cmdline())):
                    sample = time.monotonic() - started, one.memory_info().rss / 2**20, one.num_fds()
                    watched.setdefault(one.pid, Watched(one.pid)).add(*sample)
        time.sleep(interval)
    return process.returncode, [watched[pid] for pid in sorted(watched)]


def flatness(process: Watched, warm_from: float, warm_until: float, end: float) -> Flatness:
    """Compare the window [warm_from, warm_until) with [warm_until, end), in seconds since the command began.

    Raises:
        ValueError: one of the two windows holds no sample.
    """
    seconds = np.array(process.seconds)
    warm, last = (seconds >= warm_from) & (seconds < warm_until), (seconds >= warm_until) & (seconds < end)
    if not warm.any() or not last.any():
        raise ValueError(
            f"process {process.pid} was watched from {seconds[0]:.1f} to {seconds[-1]:.1f} s: no sample on one side of "
            f"{warm_until:.1f} s. Let it run longer, or sample more often."
        )
    memory, files = np.array(process.resident_mb), np.array(process.num_files)
    return Flatness(
        process.pid,
        float(np.median(memory[warm])),
        float(np.median(memory[last])),
        float(np.median(files[warm])),
        float(np.median(files[last])),
    )


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


# Small nets on small clips: the host's work per step is what leaks, and this way there are many steps.
SMALL = ["--preset", "demo", "--model.visual-width", "8", "--clips.crop-size", "32", "--batch-size", "16"]
SMALL += ["--group-size", "4"]


def main() -> int:
    options = _parse()
    if traces(options.out):
        raise ConfigError(f"--out {options.out} already holds a run. Choose another.")
    words = [*SMALL, "--epochs", options.epochs, "--store", options.store, "--out", options.out, *options.pretrain]
    run = command("pretrain", *words, processes=options.processes)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    print(" ".join(run), flush=True)
    started = time.time()
    code, watched = watch(
        run,
        lambda line: "-m modist_fast pretrain" in line and "torch.distributed.run" not in line,
        interval=options.interval,
        env=os.environ | threads,
    )
    if code:
        print(f"the run ended with exit code {code}", file=sys.stderr)
        return 1
    ends = epoch_ends(options.out, started)
    ranks = lasting(watched, ends[0])
    found = [flatness(process, ends[0], ends[1], ends[-1]) for process in ranks]
    print(f"{len(ends)} epochs; epoch 2 against the {len(ends) - 2} after it")
    for process in found:
        print(
            f"process {process.pid}: {process.warm_mb:.1f} → {process.last_mb:.1f} MB ({100 * process.growth:+.2f} %), "
            f"{process.warm_files:g} → {process.last_files:g} file descriptors"
        )
    if options.json is not None:
        record = {"command": run, "epoch_ends": ends, "processes": [asdict(process) for process in ranks]}
        options.json.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0 if all(is_flat(process, options.tolerance) for process in found) else 1


def is_flat(process: Flatness, tolerance: float) -> bool:
    return process.growth <= tolerance and process.last_files <= process.warm_files


def epoch_ends(run: Path, started: float) -> list[float]:
    """Seconds from `started` (a time.time()) to the end of each epoch of a run that is over."""
    metrics = run / "metrics.jsonl"
    rows = read_metrics(metrics)
    moment = metrics.stat().st_mtime - started
    ends = {}
    for row in reversed(rows):
        ends.setdefault(row["epoch"], moment)
        moment -= row["seconds"]
    return [ends[epoch] for epoch in sorted(ends)]


def _parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="made by modist prepare")
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    parser.add_argument(
        "--epochs", type=int, default=3, help="passes over the videos; the second is held against the last"
    )
    parser.add_argument("--processes", type=int, default=default_processes(), help="2, or 1 on a single GPU")
    parser.add_argument("--tolerance", type=float, default=0.02, help="growth of resident memory that passes")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between two looks")
    parser.add_argument("--json", type=Path, help="write all samples there")
    parser.add_argument("pretrain", nargs="*", help="options for modist pretrain, after --")
    options = parser.parse_args()
    for name, within in {"processes": COUNT, "interval": POSITIVE, "tolerance": FROM_ZERO}.items():
        if not within.holds(value := getattr(options, name)):
            raise ConfigError(f"--{name} {value}: it must be {within}.")
    if options.epochs < 3:
        raise ConfigError(f"--epochs {options.epochs}: one to warm up and two to compare are needed, 3 at least.")
    return options
