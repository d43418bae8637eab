"""Signals that ask a command to stop: what they raise, and with which code the process then ends."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""A scheduler's end, its warning beforehand (Slurm's --signal=USR1@120), and Ctrl-C."""
_SAME_KEYS = 1.0  # seconds: a launcher hands the Ctrl-C on that its processes have had from the terminal
_KEPT = "What was finished is kept, and the same command goes on from it where it can."


class Interrupted(KeyboardInterrupt):
    """A signal has asked for the end.

    Attributes:
        code: of the process: 128 and the signal's number, as shells have it, unless another was asked for.
    """

    def __init__(self, signum: int, message: str = _KEPT, code: int | None = None) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}. {message}")
        self.code = 128 + signum if code is None else code


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    """A handler: the command ends where it is, and leaves no half of anything."""
    raise Interrupted(signum)


@contextmanager
def noted(note: Callable[[int], None]) -> Iterator[None]:
    """In here the signals are only noted; a second Ctrl-C, a moment later, ends the process at once.

    To be entered in the main thread.
    """
    first = -_SAME_KEYS

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if signum == signal.SIGINT:
            if first > 0 and time.monotonic() - first > _SAME_KEYS:
                raise Interrupted(signum, "Nothing was saved since the last checkpoint.")
            first = first if first > 0 else time.monotonic()
        note(signum)

    before = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
