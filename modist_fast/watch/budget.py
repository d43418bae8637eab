"""The step budget: where the time of a run's steps went on each rank, and what ran behind them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modist_fast.replay import WARM_UP

PHASES = (
    "data_wait",
    "copy",
    "momentum",
    "keys",
    "gather",
    "queries",
    "loss",
    "backward",
    "all_reduce",
    "checks",
    "optimizer",
    "enqueue",
    "log",
    "checkpoint",
)
"""What a step does, one after another. `all_reduce` is only what backward waited for; `other` is what they leave."""
BACKGROUND = ("plan", "read", "decode")
COUNTERS = ("frames_used", "frames_decoded", "bytes_read", "bytes_needed", "videos_damaged")
_SUMS = ("num_steps", "seconds", "launch", "ready", "core_wait", *PHASES, *BACKGROUND, *COUNTERS)
_PEAKS = ("host_mb", "device_mb")
COLUMNS = (*_SUMS, *_PEAKS)
"""What a rank tells the others of a window, in this order."""

# The first steps allocate, compile, fill caches and, last of them, record CUDA graphs: a window of their own, which the
# summary leaves out.
WARM_UP_STEPS = WARM_UP + 1
WINDOW_STEPS = 20


@dataclass
class RankBudget:
    """One rank's sums over the steps of a window."""

    values: Counter[str] = field(default_factory=Counter)
    _windows_taken: int = 0

    def add(
        self,
        seconds: float,
        phases: Mapping[str, float],
        background: Mapping[str, float],
        counters: Mapping[str, float],
        *,
        launch: float,
        ready: int,
        core_wait: float = 0.0,
    ) -> None:
        """Take in a step.

        Args:
            seconds: from the end of the step before to the end of this one.
            phases: seconds by name, of `PHASES`.
            background: seconds of other threads by name, of `BACKGROUND`.
            counters: of the step's clips, of `COUNTERS`.
            launch: seconds that the host spent on launching the phases: see `StepTimes.host_seconds`.
            ready: batches that were ready when the step asked.
            core_wait: seconds that the thread of the steps was ready to run, and had no core.
        """
        for part in (phases, background, counters):
            self.values.update(part)
        step = {"num_steps": 1, "seconds": seconds, "launch": launch, "ready": ready, "core_wait": core_wait}
        self.values.update(step)

    @property
    def is_due(self) -> bool:
        """Whether the window is full; so on every rank at the same step."""
        return self.values["num_steps"] >= (WINDOW_STEPS if self._windows_taken else WARM_UP_STEPS)

    def take(self, host_mb: float, device_mb: float) -> list[float]:
        """The window's `COLUMNS`, given the peaks of memory so far; begins a new window."""
        values, self.values = self.values | {"host_mb": host_mb, "device_mb": device_mb}, Counter()
        unknown = values.keys() - set(COLUMNS)
        assert not unknown, f"phases that the budget does not know: {unknown}"
        self._windows_taken += 1
        return [float(values.get(name, 0)) for name in COLUMNS]


@dataclass(frozen=True)
class RunFacts:
    """What the budget cannot see in times."""

    batch_size: int
    """Samples a step, over all ranks."""
    clips_per_sample: int
    source: str
    """Where the clips come from, for messages."""
    device: str
    """"cpu" or "cuda"."""
    flops_per_step: float
    """Of the nets, over all ranks."""
    peak_flops: float
    """A second, of all ranks' devices."""
    peak_source: str
    rejected_windows: float | None
    """Share of the motion windows that the threshold rejects."""


class RunBudget:
    """All ranks' windows, added up."""

    def __init__(self, world_size: int) -> None:
        self._warm_up = [Counter[str]() for _ in range(world_size)]
        self._ranks = [Counter[str]() for _ in range(world_size)]
        self._peaks = [Counter[str]() for _ in range(world_size)]
        self._last_step = 0
        self._seen_warm_up = False

    def add(self, step: int, window: Sequence[Sequence[float]]) -> dict[str, Any]:
        """Take in a window that ended with `step`, as (ranks, `COLUMNS`); returns its line for RUN/budget.jsonl."""
        ranks: list[dict[str, float]] = [dict(zip(COLUMNS, values, strict=True)) for values in window]
        target, self._seen_warm_up = (self._ranks if self._seen_warm_up else self._warm_up), True
        for total, peak, values in zip(target, self._peaks, ranks, strict=True):
            total.update({name: values[name] for name in _SUMS})
            peak.update({name: max(0.0, values[name] - peak[name]) for name in _PEAKS})
        self._last_step = step
        return {
            "step": step,
            "num_steps": round(ranks[0]["num_steps"]),
            "seconds": [values["seconds"] for values in ranks],
            "phases": {name: [values[name] for values in ranks] for name in PHASES}
            | {"other": [_other(values) for values in ranks]},
            "background": {name: [values[name] for values in ranks] for name in BACKGROUND},
            **{name: [values[name] for values in ranks] for name in _PEAKS},
        }

    def summary(self, facts: RunFacts, gpu: Mapping[str, float]) -> dict[str, Any]:
        """JSON-ready means a step; {} before the first step after the warm-up.

        Args:
            facts: of the run.
            gpu: mean readings of the device, {} where there are none.
        """
        num_steps = self._ranks[0]["num_steps"]
        if not num_steps:
            return {}
        num_ranks = len(self._ranks)
        per_step = sum(rank["seconds"] for rank in self._ranks) / num_ranks / num_steps
        phases = {}
        for name in (*PHASES, "other"):
            by_rank = [(rank[name] if name in PHASES else _other(rank)) / num_steps for rank in self._ranks]
            mean = sum(by_rank) / num_ranks
            phases[name] = {"seconds": mean, "share": mean / per_step, "by_rank": by_rank}
        flops = facts.flops_per_step / per_step
        return {
            "first_step": round(self._last_step - num_steps + 1),
            "num_steps": round(num_steps),
            "world_size": num_ranks,
            "device": facts.device,
            "seconds_per_step": per_step,
            "samples_per_s": facts.batch_size / per_step,
            "clips_per_s": facts.batch_size * facts.clips_per_sample / per_step,
            "phases": phases,
            "launch_share": max(rank["launch"] for rank in self._ranks) / num_steps / per_step,
            "core_wait": [rank["core_wait"] / max(1e-9, rank["seconds"]) for rank in self._ranks],
            "background": {
                name: sum(rank[name] for rank in self._ranks) / num_ranks / num_steps for name in BACKGROUND
            },
            "flops": {
                "per_step": facts.flops_per_step,
                "per_second": flops,
                "peak": facts.peak_flops,
                "peak_share": flops / facts.peak_flops,
                "peak_source": facts.peak_source,
            },
            "memory": {name: max(peak[name] for peak in self._peaks) for name in _PEAKS},
            "gpu": dict(gpu),
            "data": self._data(facts.source),
            "rejected_windows": facts.rejected_windows,
        }

    def _data(self, source: str) -> dict[str, Any]:
        # Clips are counted from the first step on.
        count = sum((*self._ranks, *self._warm_up), Counter())
        rank, warm_up = self._ranks[0], self._warm_up[0]
        return {
            "source": source,
            "amplification": count["frames_decoded"] / max(1, count["frames_used"]),
            "bytes_read_vs_needed": count["bytes_read"] / max(1, count["bytes_needed"]),
            "queue_depth": rank["ready"] / rank["num_steps"],
            # Every rank counts the same ones.
            "videos_damaged": round(rank["videos_damaged"] + warm_up["videos_damaged"]),
        }


def _other(rank: Mapping[str, float]) -> float:
    """What the phases leave of the steps. Not below zero: a device's clock and the host's do not agree to the last."""
    return max(0.0, rank["seconds"] - sum(rank[name] for name in PHASES))


def phase_lines(phases: Mapping[str, Any]) -> list[str]:
    """A line for each phase, the longest first; with several ranks, from the shortest time of any to the longest."""
    lines = []
    for name, phase in sorted(phases.items(), key=lambda item: -item[1]["share"]):
        by_rank = [1e3 * seconds for seconds in phase["by_rank"]]
        spread = f"   {min(by_rank):.1f} to {max(by_rank):.1f}" if len(by_rank) > 1 else ""
        lines.append(f"  {name:12} {1e3 * phase['seconds']:9.1f} ms {100 * phase['share']:6.1f} %{spread}")
    return lines


def table(summary: Mapping[str, Any]) -> str:
    """A summary for people; "" for an empty one."""
    if not summary:
        return ""
    ranks = f" of {summary['world_size']} processes" if summary["world_size"] > 1 else ""
    lines = [
        f"step budget over {summary['num_steps']} steps{ranks}: {1e3 * summary['seconds_per_step']:.1f} ms a step, "
        f"{summary['samples_per_s']:.1f} samples/s, {summary['clips_per_s']:.1f} clips/s"
    ]
    lines += phase_lines(summary["phases"])
    behind = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in summary["background"].items())
    flops, memory, data = summary["flops"], summary["memory"], summary["data"]
    lines.append(f"  behind it, on this process's threads: {behind}")
    lines.append(
        f"  nets: {flops['per_step'] / 1e9:.1f} GFLOP a step, {flops['per_second'] / 1e12:.3f} TFLOP/s, "
        f"{100 * flops['peak_share']:.0f} % of {flops['peak_source']}"
    )
    lines.append(
        f"  memory: {memory['host_mb']:.0f} MB of the host"
        + (f", {memory['device_mb']:.0f} MB of the device" if memory["device_mb"] else "")
        + ", most of any process"
    )
    if (without := max(summary.get("core_wait", [0.0]))) >= 0.01:
        lines.append(f"  ready to run without a core: {100 * without:.0f} % of the time, most of any process")
    if summary["gpu"]:
        lines.append("  gpu: " + ", ".join(f"{name} {value:.0f}" for name, value in summary["gpu"].items()))
    lines.append(
        f"  clips from {data['source']}: {data['amplification']:.2f} frames decoded and "
        f"{data['bytes_read_vs_needed']:.2f} bytes read for one needed; {data['queue_depth']:.1f} steps ready "
        f"when one began; {data['videos_damaged']} damaged videos left out"
    )
    return "\n".join(lines)
