"""How long a device takes for a call, without the host's part in it."""

import statistics
import sys
import time
from collections.abc import Callable

import torch

_FLUSH_BYTES = 256 << 20  # more than any second-level cache
_WARM_UP = 3
_CALLS = 10  # in a graph: together long beside the gap between a graph's begin and its first kernel


class Stopwatch:
    """Times a call over and over: on a CPU by the host's clock, on CUDA by replays of a graph.

    The graph holds the call ten times (once where `cold`), and events stand before and behind it. Launching costs
    nothing then, so the time is the kernels'.

    Args:
        call: one that cannot be captured (it reads back, or waits) is timed with its launches, which is said.
        device: where it computes.
        cold: on CUDA, overwrite the second-level cache before each reading.
    """

    def __init__(self, call: Callable[[], object], device: torch.device, cold: bool = False) -> None:
        self._call, self._device, self._graph, self._flush = call, device, None, None
        if device.type != "cuda":
            call()
            return
        self._repeats = 1 if cold else _CALLS
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):  # compiles, chooses algorithms, allocates
                call()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(self._repeats):
                    call()
            self._graph = graph
        except RuntimeError as error:  # another library's call, say, that waits or has a stream of its own
            self._repeats = 1
            print(f"no CUDA graph of {call}, so its time holds the host's launches: {error}", file=sys.stderr)
        if cold:
            self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
        self.milliseconds()  # the first replay uploads the graph

    def milliseconds(self) -> float:
        """Of one call, now."""
        if self._device.type != "cuda":
            begun = time.perf_counter()
            self._call()
            return 1e3 * (time.perf_counter() - begun)
        if self._flush is not None:
            self._flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / self._repeats


def median_milliseconds(call: Callable[[], object], device: torch.device, readings: int = 7) -> float:
    """Median of some readings of a `Stopwatch`."""
    watch = Stopwatch(call, device)
    return statistics.median(watch.milliseconds() for _ in range(readings))
