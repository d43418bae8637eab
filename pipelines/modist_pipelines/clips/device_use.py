"""Who uses the device: threads that decode, side by side, or a recording of CUDA graphs, alone.

While a graph is recorded, nobody else in the process may wait for the whole device or free its memory, as DALI does
now and then: on an H200 with DALI 2.4 that broke a recording off (cudaErrorStreamCaptureInvalidated).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceUse:
    """A lock that many hold together, or one alone. Whoever wants it alone waits for those within, and keeps new ones
    out meanwhile; a thread that is within may enter again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_within = 0
        self._alone = False
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around work for the device that waits for no other thread."""
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:
            with self._changed:
                self._changed.wait_for(lambda: not self._alone)
                self._num_within += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if depth == 0:
                with self._changed:
                    self._num_within -= 1
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Around a recording."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: self._num_within == 0)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    @property
    def is_alone(self) -> bool:
        """Whether somebody has it alone."""
        return self._alone


DEVICE_USE = DeviceUse()
"""Of this process, which has one device."""
