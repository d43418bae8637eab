"""The parts of a step as CUDA graphs: what a part launches is recorded once and from then on launched as one.

A GPU step launches a thousand kernels and more, each of which costs the host several microseconds; a replayed graph
costs one launch. A graph reads and writes the addresses of its recording, so a part may only use tensors that stay
where they are: weights, banks, buffers that each step fills anew, and what parts before it in the same step made.
tests/method/test_replay.py holds that on a CPU, with a stand-in that replays as a graph does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

from modist_pipelines.clips.device_use import DEVICE_USE

Result = TypeVar("Result")
WARM_UP = 3  # steps before the recording: compiles kernels, chooses algorithms, makes the optimizer's state


class Graph(Protocol):
    """Records what a function does to the device, without its being done, and does it as often as asked."""

    def capture(self, part: Callable[[], Result]) -> Result: ...

    def replay(self) -> None: ...


class CudaGraph:
    """A CUDA graph, recorded on the current stream, which must not be the default one.

    Args:
        pool: memory shared by graphs that are replayed in the order of their recording.
    """

    def __init__(self, pool: Any) -> None:
        self._graph, self._pool = torch.cuda.CUDAGraph(), pool

    def capture(self, part: Callable[[], Result]) -> Result:
        # thread_local: other threads decode, and allocate, meanwhile.
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            return part()

    def replay(self) -> None:
        self._graph.replay()


class Parts:
    """Runs the named parts of a step as they are; or, once `WARM_UP` steps have gone by, from their graphs.

    The step after these records all of its parts, which computes nothing, and then replays them.

    Args:
        new_graph: makes a graph; None runs everything as it is.
    """

    def __init__(self, new_graph: Callable[[], Graph] | None) -> None:
        self._new_graph = new_graph
        self._steps = 0
        self._recorded: dict[tuple[str, int], tuple[Graph, object]] = {}

    @property
    def static(self) -> bool:
        """Whether inputs must lie where they always do."""
        return self._new_graph is not None

    @property
    def recording(self) -> bool:
        """Whether this step records."""
        return self.static and self._steps == WARM_UP + 1

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step: all of its parts, in the order of the first one."""
        self._steps += 1
        with DEVICE_USE.alone() if self.recording else nullcontext():
            yield
            if self.recording:
                for graph, _ in self._recorded.values():
                    graph.replay()

    def run(self, name: str, part: Callable[[], Result], index: int = 0) -> Result:
        """Run a part, or replay it: then with the result of its recording, whose contents are the new ones.

        Args:
            name: of the part.
            part: takes nothing, and does nothing on the host that a replay would miss.
            index: tells apart parts of one name in a step.
        """
        if self._new_graph is None or self._steps <= WARM_UP:
            return part()
        if self.recording:
            graph = self._new_graph()
            self._recorded[name, index] = graph, graph.capture(part)
            return self._recorded[name, index][1]  # pyright: ignore[reportReturnType], of the part that was recorded
        graph, result = self._recorded[name, index]
        graph.replay()
        return result  # pyright: ignore[reportReturnType]

    def give_up(self) -> None:
        """Run everything as it is from now on."""
        self._new_graph = None
        self._recorded.clear()


def cuda_graphs() -> Callable[[], Graph]:
    """Makes graphs that share their memory."""
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool)
