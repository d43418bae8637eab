"""Named spans of a training step: one name in NVTX, in torch.profiler and in the log.

A span costs two host clock reads, and an NVTX push and pop where a CUDA device is visible. Times are host
times: on a GPU they say when the host let go of a phase, not when the device had finished it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler import record_function


class Spans:
    """Collects the host seconds of named phases between two calls of `take`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._nvtx = torch.cuda.is_available()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the enclosed block as phase `name`; a name met twice adds up."""
        if self._nvtx:
            torch.cuda.nvtx.range_push(name)
        start = time.perf_counter()
        try:
            with record_function(name):
                yield
        finally:
            elapsed = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed
            if self._nvtx:
                torch.cuda.nvtx.range_pop()

    def take(self) -> dict[str, float]:
        """Return seconds by phase since the last call, and begin anew."""
        seconds, self._seconds = self._seconds, {}
        return seconds
