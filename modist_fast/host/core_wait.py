"""How long a thread was ready to run while others had the cores: what a busy machine costs it."""

import os
from pathlib import Path

_SCHEDULE = Path("/proc/thread-self/schedstat")  # nanoseconds on a core, nanoseconds ready without one, time slices


def seconds_without_core() -> float:
    """Of the calling thread, since it began; 0 where the kernel does not say."""
    try:
        return int(_SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def load_in_words() -> str:
    """How much wants to run on this machine now, over the last minute."""
    return f"{os.getloadavg()[0]:.1f} threads want to run on {os.cpu_count()} cores"
