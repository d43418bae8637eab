"""The frame of all benchmarks: providers side by side in one process, interleaved, reported in one form."""

import csv
import json
import math
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modist_fast.watch.rates import Roofline

_L2_FLUSH_BYTES = 256 << 20


@dataclass
class Provider:
    """One implementation under measurement."""

    name: str
    run: Callable[[], object]
    """One whole call, its backward included where the benchmark says so."""
    bytes_moved: float | None = None
    """Bytes of one call where they are known (`traffic` says how), else None."""
    traffic: str = ""
    """"counted" in Triton's interpreter, "estimated" from the tensors that the operations touch."""
    limit: str = ""
    """What it cannot do that the others do."""
    gradient_error: float | None = None
    """Largest error of the gradient (or of the result) against float64, relative to the largest entry."""


@dataclass
class Row:
    """A line of the report. Times in milliseconds."""

    benchmark: str
    provider: str
    shape: dict[str, int | str]
    mode: str
    median: float
    p20: float
    p80: float
    extra_memory: float
    """Most bytes allocated at once during a call, beyond what stood before."""
    bytes_moved: float | None
    traffic: str
    bandwidth: float | None
    """GB/s: bytes_moved over the median."""
    compute: float
    """TFLOP/s: the arithmetic of the definition over the median."""
    roofline_share: float | None
    """Least time for the compulsory bytes and the arithmetic, over the median."""
    speedup: float
    """Against the slowest provider named first, the baseline."""
    gradient_error: float | None
    limit: str
    unit: str = "ms"
    times: list[float] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float, device: torch.device, cold: bool = False
) -> dict[str, list[float]]:
    """Milliseconds of each run, measured in turns, so that a disturbance falls on all of them.

    Args:
        runs: name to call.
        rounds: turns at most.
        seconds: no further turn after this time; three turns at least.
        device: on CUDA, times are the device's, by events.
        cold: on CUDA, overwrite the second-level cache before each call.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    flush = torch.empty(_L2_FLUSH_BYTES, dtype=torch.uint8, device=device) if cold else None
    for run in runs.values():
        run()
    begun = time.perf_counter()
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() - begun > seconds:
            break
        for name, run in runs.items():
            if flush is not None:
                flush.zero_()
            times[name].append(_milliseconds(run, device))
    return times


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop)
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) * 1e3


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
    benchmark: str,
    providers: Sequence[Provider],
    shape: dict[str, int | str],
    *,
    compulsory_bytes: float,
    flops: float,
    limits: Roofline,
    device: torch.device,
    rounds: int,
    seconds: float,
) -> list[Row]:
    """Time all providers, the first of which is the baseline; on CUDA with a cold and with a warm cache."""
    rows = []
    memory = {provider.name: peak_extra_memory(provider.run, device) for provider in providers}
    for cold in (True, False) if device.type == "cuda" else (False,):
        times = interleave({p.name: p.run for p in providers}, rounds, seconds, device, cold)
        baseline = percentile(times[providers[0].name], 0.5)
        for provider in providers:
            median = percentile(times[provider.name], 0.5)
            moved = provider.bytes_moved
            rows.append(
                Row(
                    benchmark=benchmark,
                    provider=provider.name,
                    shape=shape,
                    mode=("cold L2" if cold else "warm L2") if device.type == "cuda" else "cpu",
                    median=median,
                    p20=percentile(times[provider.name], 0.2),
                    p80=percentile(times[provider.name], 0.8),
                    extra_memory=memory[provider.name],
                    bytes_moved=moved,
                    traffic=provider.traffic,
                    bandwidth=moved / median / 1e6 if moved else None,
                    compute=flops / median / 1e9,
                    roofline_share=limits.seconds(compulsory_bytes, flops) * 1e3 / median,
                    speedup=baseline / median,
                    gradient_error=provider.gradient_error,
                    limit=provider.limit,
                    times=times[provider.name],
                )
            )
    return rows


def environment(device: torch.device, limits: Roofline | None = None) -> dict[str, object]:
    """What the numbers depend on."""
    found: dict[str, object] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    if limits is not None:
        found["roofline"] = asdict(limits)
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def print_rows(rows: Sequence[Row]) -> None:
    """A table on the terminal, a block for each shape and mode."""
    header = f"{'provider':34}{'median ms':>11}{'p20':>9}{'p80':>9}{'extra MiB':>11}{'MB moved':>10}{'GB/s':>8}"
    header += f"{'TFLOP/s':>9}{'roofline':>9}{'speed-up':>9}{'grad error':>11}"
    previous = None
    for row in rows:
        block = (row.benchmark, str(row.shape), row.mode)
        if block != previous:
            sizes = ", ".join(f"{key} {value}" for key, value in row.shape.items())
            print(f"\n{row.benchmark}: {sizes} ({row.mode})\n{header}")
            previous = block
        cells = [
            f"{row.median:11.3f}{row.p20:9.3f}{row.p80:9.3f}{row.extra_memory / 2**20:11.2f}",
            f"{row.bytes_moved / 1e6:10.2f}" if row.bytes_moved else f"{'':10}",
            f"{row.bandwidth:8.1f}" if row.bandwidth else f"{'':8}",
            f"{row.compute:9.4f}",
            f"{row.roofline_share:9.1%}" if row.roofline_share else f"{'':9}",
            f"{row.speedup:8.2f}x",
            f"{row.gradient_error:11.1e}" if row.gradient_error is not None else f"{'':11}",
        ]
        print(f"{row.provider:34}{''.join(cells)}" + (f"  ({row.limit})" if row.limit else ""))


def write_json(path: Path, rows: Sequence[Row], ratios: dict[str, float], found: dict[str, object]) -> None:
    """One object: rows, ratios by name, environment."""
    content = {"rows": [asdict(row) for row in rows], "ratios": ratios, "environment": found}
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Row], found: dict[str, object]) -> None:
    """A line for each row, with device, versions and time on each, so that files can be joined."""
    with path.open("w", newline="") as file:
        keys = [key for key in asdict(rows[0]) if key not in ("shape", "times")]
        writer = csv.DictWriter(file, [*rows[0].shape, *keys, "device", "cpu", "torch", "time"])
        writer.writeheader()
        for row in rows:
            cells = {key: getattr(row, key) for key in keys}
            writer.writerow(row.shape | cells | {k: found[k] for k in ("device", "cpu", "torch", "time")})


def plot(path: Path, rows: Sequence[Row], axes: Sequence[str]) -> None:
    """Median time of each provider along each of the shape's sizes `axes`, all others as in the first row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(1, len(axes), figsize=(6 * len(axes), 4.5), squeeze=False)
    base = rows[0]
    for axis, chart in zip(axes, plots[0], strict=True):
        fixed = {key: value for key, value in base.shape.items() if key != axis}
        chosen = [r for r in rows if r.mode == base.mode and all(r.shape[k] == v for k, v in fixed.items())]
        for name in dict.fromkeys(row.provider for row in chosen):
            line = sorted((float(r.shape[axis]), r.median, r.p20, r.p80) for r in chosen if r.provider == name)
            x, middle, low, high = zip(*line, strict=True)
            chart.plot(x, middle, marker="o", label=name)
            chart.fill_between(x, low, high, alpha=0.15)
        chart.set(xscale="log", yscale="log", xlabel=axis, ylabel=f"{base.unit} (median, p20 to p80)")
        chart.set_title(", ".join(f"{key} {value}" for key, value in fixed.items()), fontsize=9)
    plots[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


class Parity(NamedTuple):
    """One figure."""

    what: str
    """The kernel or graph, and which of its results."""
    case: str
    """Shape, types and options."""
    against: str
    error: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """False for NaN as well."""
        return self.error <= self.bound


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in float64; infinite where only one side is infinite or NaN."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    difference = torch.where(same, 0.0, (found - expected).abs())
    return float(difference.nan_to_num(nan=math.inf, posinf=math.inf).max()) if difference.numel() else 0.0


def print_figures(figures: Sequence[Parity]) -> None:
    """A table; a figure beyond its bound says so."""
    what, case = (2 + max(len(getattr(figure, name)) for figure in figures) for name in ("what", "case"))
    print(f"{'':{what}}{'case':{case}}{'error':>10}{'bound':>10}  unit")
    for figure in figures:
        cells = f"{figure.error:10.2e}{figure.bound:10.2e}  {figure.unit}"
        print(f"{figure.what:{what}}{figure.case:{case}}{cells}{'' if figure.holds else '   BEYOND ITS BOUND'}")
