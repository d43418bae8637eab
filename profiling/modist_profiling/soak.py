"""Watching the processes of a run from outside: does memory grow, do file descriptors leak?"""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Watched:
    """Samples of one process."""

    pid: int
    seconds: list[float] = field(default_factory=list)
    """Since the command began."""
    resident_mb: list[float] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)
    """Open file descriptors."""


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
    command: list[str], of_interest: Callable[[str], bool], *, interval: float = 0.25, **options: Any
) -> tuple[int, list[Watched]]:
    """Run a command and sample those of its processes that are of interest, from /proc.

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
        for pid in family(process.pid):
            try:
                if of_interest(_command_line(pid)):
                    _sample(watched.setdefault(pid, Watched(pid)), time.monotonic() - started)
            except OSError:  # it ended in between
                continue
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


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _sample(process: Watched, seconds: float) -> None:
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = next((line for line in status.splitlines() if line.startswith("VmRSS:")), None)
    if resident is None:  # a zombie has no memory
        return
    num_files = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
    process.seconds.append(seconds)
    process.resident_mb.append(int(resident.split()[1]) / 1024)
    process.num_files.append(num_files)
