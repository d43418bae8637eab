"""Recording a few steps of a run for the tools that show time and memory: Perfetto, memory_viz, Nsight."""

import logging
from pathlib import Path

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

log = logging.getLogger("modist")
_MEMORY_EVENTS = 200_000


class StepProfiler:
    """Records the steps [first, first + num_steps) of a process. With nothing to record, `step` only counts.

    Args:
        folder: where the records go.
        rank: of this process, part of the files' names.
        device: of this process; memory snapshots and windows are of CUDA devices only.
        first: steps before the first that is recorded.
        num_steps: how many.
        trace: torch.profiler's trace of all threads.
        memory: snapshot of the device's allocations.
        cuda_window: cudaProfilerStart and Stop around the steps.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        device: torch.device,
        *,
        first: int,
        num_steps: int,
        trace: bool,
        memory: bool,
        cuda_window: bool,
    ) -> None:
        self._folder, self._rank = folder, rank
        self._first, self._end = first, first + num_steps
        on_cuda = device.type == "cuda"
        if not on_cuda and (memory or cuda_window):
            log.warning("memory snapshots and profiler windows need a CUDA device, and this run is on %s", device)
        self._memory, self._window = memory and on_cuda, cuda_window and on_cuda
        self._trace = _trace_of_all_threads(on_cuda) if trace else None
        self._wanted = trace or self._memory or self._window
        self._steps = 0
        self._running = False
        self.disturbs = False
        """Whether the step that has begun is slower for being recorded, or for starting or ending a record."""

    def step(self) -> None:
        """Call before each step."""
        self.disturbs = self._wanted and self._first <= self._steps <= self._end
        if self._wanted and self._steps == self._first:
            self._start()
        if self._steps == self._end:
            self._stop()
        self._steps += 1

    def close(self) -> None:
        """Write what was recorded so far, where the run ends within the steps."""
        if self._wanted and self._steps <= self._first:
            log.warning("nothing was profiled: the run ended after %d steps, before --profile.start", self._steps)
        self._stop()

    def _start(self) -> None:
        self._running = True
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._memory:
            torch.cuda.memory._record_memory_history(max_entries=_MEMORY_EVENTS)
        if self._trace is not None:
            self._trace.start()
        if self._window:
            torch.cuda.synchronize()  # what was launched before is not of these steps
            torch.cuda.profiler.start()

    def _stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._window:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
        if self._trace is not None:
            self._trace.stop()
            path = self._folder / f"trace-rank{self._rank}.json.gz"
            self._trace.export_chrome_trace(str(path))
            log.info("trace: %s (open it in ui.perfetto.dev)", path)
        if self._memory:
            path = self._folder / f"memory-rank{self._rank}.pickle"
            torch.cuda.memory._dump_snapshot(str(path))
            torch.cuda.memory._record_memory_history(enabled=None)
            log.info("memory: %s (drop it on pytorch.org/memory_viz)", path)


def _trace_of_all_threads(on_cuda: bool) -> torch.profiler.profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    # Without it only the threads that the profiler was started in and autograd's show, not the loader's.
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    return torch.profiler.profile(
        activities=activities, record_shapes=True, profile_memory=True, experimental_config=every_thread
    )
