"""The calls of bench_loss.py and bench_edges.py: side by side in one process, in turns, against a roofline."""

import importlib.util
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from modist_fast.watch.rates import Roofline, roofline
from modist_pipelines.ranges import COUNT, ranged
from modist_profiling.frame.device_time import Stopwatch
from modist_profiling.frame.report import Report, charts, find_device
from modist_profiling.frame.rows import Row, turns


@dataclass(frozen=True, kw_only=True)
class KernelOptions(Report):
    """What the benchmarks of both kernels have."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    threads: int = ranged(1, COUNT)
    """CPU threads."""
    sweep: bool = False
    """Also measure other shapes around the one given."""
    count: bool = True
    """Count bytes moved in Triton's interpreter (20 s for the loss)."""

    def start(self) -> tuple[torch.device, Roofline]:
        """The device, and its limits with so many threads."""
        torch.set_num_threads(self.threads)
        device = find_device(self.device)
        return device, roofline(device)


@dataclass(kw_only=True)
class KernelRow(Row):
    """One implementation on one shape."""

    shape: dict[str, int | str]
    flops: float
    """The arithmetic of the definition."""
    least_ms: float
    """For the compulsory bytes and the arithmetic, by the roofline."""
    bytes_moved: float | None = None
    """Of one call, where they are known."""
    traffic: str = "estimated"
    """How: "estimated" from the tensors that the operations touch, or "counted" in Triton's interpreter."""
    limit: str = ""
    """What it cannot do that the others do."""
    gradient_error: float | None = None
    """Largest error of the gradient (or of the result) against float64, relative to the largest entry."""
    mode: str = ""
    """State of the second-level cache, or "cpu"."""
    extra_memory: float = 0.0
    """Most bytes allocated at once during a call, beyond what stood before."""

    derived: ClassVar = (*Row.derived, "bandwidth", "compute", "roofline_share", "speedup")

    @property
    def bandwidth(self) -> float | None:
        """GB/s."""
        return self.bytes_moved / self.median / 1e6 if self.bytes_moved else None

    @property
    def compute(self) -> float:
        """TFLOP/s."""
        return self.flops / self.median / 1e9

    @property
    def roofline_share(self) -> float:
        return self.least_ms / self.median

    def cells(self) -> dict[str, str]:
        return {
            "mode": self.mode,
            **super().cells(),
            "extra MiB": f"{self.extra_memory / 2**20:.2f}",
            "MB moved": f"{self.bytes_moved / 1e6:.2f}" if self.bytes_moved else "",
            "GB/s": f"{self.bandwidth:.1f}" if self.bandwidth else "",
            "TFLOP/s": f"{self.compute:.4f}",
            "roofline": f"{self.roofline_share:.1%}",
            "speed-up": f"{self.speedup:.2f}×",
            "error": f"{self.gradient_error:.1e}" if self.gradient_error is not None else "",
            "limit": self.limit,
        }


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float, device: torch.device, cold: bool = False
) -> dict[str, list[float]]:
    """Milliseconds of each run, measured in turns, so that a disturbance falls on all of them.

    Args:
        runs: name to call.
        rounds: turns at most.
        seconds: no further turn after this time; three turns at least.
        device: on CUDA, times are the device's, by replays of a graph of each run.
        cold: on CUDA, overwrite the second-level cache before each call.
    """
    watches = {name: Stopwatch(run, device, cold) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in turns(rounds, seconds):
        for name, watch in watches.items():
            times[name].append(watch.milliseconds())
    return times


def peak_extra_memory(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that torch (and on the CPU NumPy) held at once during a call, beyond what stood before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    run()  # what is imported or cached once is not of this call
    tracemalloc.start()  # NumPy reports to it, and OpenCV's results are NumPy's
    run()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue], missing from the stubs
        peak = max(peak, held)
    return peak + numpy_peak


def measure(
    calls: Sequence[tuple[KernelRow, Callable[[], object]]], device: torch.device, rounds: int, seconds: float
) -> list[KernelRow]:
    """Time all calls of one shape, the first of which is the baseline; on CUDA with a cold and with a warm cache."""
    rows = []
    first = calls[0][0]
    title = f"{first.table}: " + ", ".join(f"{key} {value}" for key, value in first.shape.items())
    runs = {row.name: run for row, run in calls}
    memory = {name: peak_extra_memory(run, device) for name, run in runs.items()}
    for mode in ("cold L2", "warm L2") if device.type == "cuda" else ("cpu",):
        times = interleave(runs, rounds, seconds, device, mode == "cold L2")
        common = {"table": title, "mode": mode, "baseline": times[first.name]}
        rows += [replace(row, extra_memory=memory[row.name], times=times[row.name], **common) for row, _ in calls]
    return rows


def is_usable(module: str, device: torch.device, needs_gpu: bool = True) -> bool:
    """Whether another library can run here; says why not."""
    missing = importlib.util.find_spec(module) is None
    obstacle = "not installed" if missing else "needs a GPU" if needs_gpu and device.type != "cuda" else ""
    if obstacle:
        print(f"{module}: {obstacle}")
    return not obstacle


def plot_sizes(path: Path, rows: Sequence[KernelRow], axes: Sequence[str]) -> None:
    """Median time of each provider along each of the shape's sizes `axes`, all others as in the first row."""
    base = rows[0]
    with charts(path, 1, len(axes), (6 * len(axes), 4.5)) as drawn:
        for axis, chart in zip(axes, drawn, strict=True):
            fixed = {key: value for key, value in base.shape.items() if key != axis}
            chosen = [r for r in rows if r.mode == base.mode and all(r.shape[k] == v for k, v in fixed.items())]
            for name in dict.fromkeys(row.name for row in chosen):
                line = sorted((float(r.shape[axis]), r.median, r.p20, r.p80) for r in chosen if r.name == name)
                x, middle, low, high = zip(*line, strict=True)
                chart.plot(x, middle, marker="o", label=name)
                chart.fill_between(x, low, high, alpha=0.15)
            chart.set(xscale="log", yscale="log", xlabel=axis, ylabel=f"{base.unit} (median, p20 to p80)")
            chart.set_title(", ".join(f"{key} {value}" for key, value in fixed.items()), fontsize=9)
        drawn[0].legend(fontsize=7)
