"""One training step as the device sees it: kernels launched, time that it is busy, gaps between kernels.

    python -m modist_profiling.gpu_check.one_step --groups 1 --json one_step.json

The project's step on made-up clips of noise (`modist_profiling.step.worker`), eager, with `--compile` or otherwise
as the options say; torch.profiler counts what reaches the device.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from modist_fast.commands.cli import parse_options
from modist_fast.host.distributed import join_world
from modist_fast.replay import WARM_UP
from modist_fast.watch.budget_keeper import step_flops
from modist_fast.watch.rates import peak_memory
from modist_pipelines.ranges import COUNT, FROM_ZERO, ranged
from modist_profiling.frame.report import conditions, find_device, write_json
from modist_profiling.step.worker import made_up_batch, our_runner, step_config

_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


@dataclass(frozen=True)
class Options:
    """Look at one training step."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    preset: str = "modist-r50"
    groups: int = ranged(1, COUNT)
    """Groups of 8 samples of the step, on this one process."""
    group: int = ranged(8, COUNT)
    """Samples of a group."""
    crop: int = ranged(224, COUNT)
    bank: int = ranged(65536, COUNT)
    compile: bool = False
    graphs: Literal["auto", "off"] = "auto"
    groups_together: int = ranged(0, FROM_ZERO)
    steps: int = ranged(10, COUNT)
    """Steps timed without a wait between them."""
    json: Path | None = None
    trace: Path | None = None
    """Where torch.profiler's trace of one step goes."""


def device_work(run: Callable[[], object], device: torch.device, trace: Path | None = None) -> dict[str, Any]:
    """What one run hands to the device, by torch.profiler.

    Returns:
        launches, copies and fills among them; host_launches, the calls by which the host has them made; busy_ms,
        their durations added up; span_ms, from the first's begin to the last's end; by_kernel, the most expensive as
        (name, calls, ms).
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as recorded:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    if trace is not None:
        recorded.export_chrome_trace(str(trace))
    wanted = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    work = [event for event in recorded.events() or () if event.device_type == wanted]
    if device.type == "cuda":  # ranges that annotate the device's timeline are no work of it
        work = [
            event
            for event in work
            if not event.name.startswith(("ProfilerStep", "modist")) and not event.is_user_annotation
        ]
    calls, spent = Counter(), Counter()
    for event in work:
        calls[event.name] += 1
        spent[event.name] += event.time_range.elapsed_us() / 1e3
    launched = sum(event.name.startswith(_LAUNCHES) for event in recorded.events() or ())
    begin = min((event.time_range.start for event in work), default=0)
    end = max((event.time_range.end for event in work), default=0)
    return {
        "launches": len(work),
        "host_launches": launched,
        "copies": sum(n for name, n in calls.items() if name.startswith(("Memcpy", "Memset"))),
        "busy_ms": sum(spent.values()),
        "span_ms": (end - begin) / 1e3,
        "by_kernel": [(name[:120], calls[name], ms) for name, ms in spent.most_common(40)],
    }


def timed(run: Callable[[], object], device: torch.device, steps: int) -> dict[str, float]:
    """Milliseconds a step, of the host alone until all are launched, and of all until the device is done."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begun = time.perf_counter()
    for _ in range(steps):
        run()
    launched = time.perf_counter()
    wait()
    done = time.perf_counter()
    return {"host_ms": 1e3 * (launched - begun) / steps, "step_ms": 1e3 * (done - begun) / steps}


def main() -> None:

    options = parse_options(Options, description=__doc__)
    device = find_device(options.device)
    num = options.groups * options.group
    spec = {"preset": options.preset, "batch": num, "crop": options.crop, "bank": options.bank}
    with join_world(options.device) as world:
        config = replace(
            step_config(spec),
            group_size=options.group,
            compile=options.compile,
            graphs=options.graphs,
            groups_together=options.groups_together,
        )
        batch = made_up_batch(config, device)
        run = our_runner(config, batch, world)
        begun = time.perf_counter()
        for _ in range(WARM_UP + 3):
            run()
        warm_up = time.perf_counter() - begun
        times = timed(run, device, options.steps)
        work = device_work(run, device, options.trace)
        flops = step_flops(config)
        row = {
            "groups": options.groups,
            "compile": options.compile,
            "graphs": options.graphs,
            "groups_together": options.groups_together,
            "warm_up_s": warm_up,
            **times,
            **peak_memory(device),
            **work,
            "flops": flops,
        }
    for key, value in row.items():
        if key != "by_kernel":
            print(f"{key}: {value}")
    print(f"TFLOP/s: {flops / row['step_ms'] / 1e9:.1f}; samples/s: {num / row['step_ms'] * 1e3:.0f}")
    for name, calls, ms in row["by_kernel"][:25]:
        print(f"  {ms:8.3f} ms {calls:5d} × {name}")
    if options.json:
        write_json(options.json, [row], {"launches": row["launches"]}, conditions(device))


if __name__ == "__main__":
    main()
