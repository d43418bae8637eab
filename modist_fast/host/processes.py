"""Processes: commands of this project in some of their own, and the cores that this one may use."""

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def command(name: str, *words: object, processes: int | None = None) -> tuple[str, ...]:
    """The words that run one of the commands in a process of its own, from any working directory.

    Args:
        name: see `modist --help`.
        words: its options.
        processes: start so many.
    """
    launcher = ("--nproc-per-node", str(processes)) if processes else ()
    return (sys.executable, "-m", "modist_fast", *launcher, name, *map(str, words))


def end_with_launcher() -> None:
    """Have this process get SIGTERM when torchrun dies, however it does: it saves and ends, instead of training on.

    torchrun gives each process a session of its own, so what kills torchrun's group does not reach them. Elsewhere than
    on Linux, and under other launchers, this does nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def allowed_cores(device: "torch.device") -> str:
    """For the log: how many cores this process may use; with a GPU, how to have those that are near to it."""
    near = "" if device.type == "cpu" else " (`torchrun --numa-binding node` keeps to those near the GPU)"
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores{near}"
