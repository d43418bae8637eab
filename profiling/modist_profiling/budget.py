"""The step budget: where the time of a run's steps went, and what ran behind them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The first steps allocate, compile and fill caches; they are left out where there are enough others.
_WARM_UP = 3


@dataclass
class StepBudget:
    """Adds up steps. The phases of a step and its remainder, "other", make up its whole time."""

    source: str
    """Where the clips come from, for messages."""
    num_steps: int = 0
    seconds: float = 0.0
    phases: Counter[str] = field(default_factory=Counter)
    """Seconds in which the step did nothing else."""
    background: Counter[str] = field(default_factory=Counter)
    """Seconds of other threads, behind the steps."""
    counters: Counter[str] = field(default_factory=Counter)
    """Frames decoded and used, bytes read and needed, videos damaged."""
    ready: int = 0
    """Sum over the steps of the batches that were ready when they began."""
    _skipped: int = 0

    def add(
        self,
        seconds: float,
        phases: Mapping[str, float],
        background: Mapping[str, float],
        counters: Mapping[str, float],
        ready: int,
    ) -> None:
        """Take in a step.

        Args:
            seconds: from the end of the step before to the end of this one.
            phases: seconds by name; what they leave of `seconds` is counted as "other".
            background: seconds of other threads by name.
            counters: of the step's clips.
            ready: batches that were ready when the step asked.
        """
        self.counters.update(counters)
        if self._skipped < _WARM_UP:
            self._skipped += 1
            return
        self.num_steps += 1
        self.seconds += seconds
        self.phases.update(phases)
        self.background.update(background)
        self.ready += ready

    def summary(self) -> dict[str, Any]:
        """JSON-ready: seconds a step and shares by phase, and the data plane's ratios; {} before the first step."""
        if not self.num_steps:
            return {}
        per_step = self.seconds / self.num_steps
        named = {name: seconds / self.num_steps for name, seconds in self.phases.items()}
        named["other"] = max(0.0, per_step - sum(named.values()))
        count = self.counters
        return {
            "num_steps": self.num_steps,
            "seconds_per_step": per_step,
            "phases": {name: {"seconds": value, "share": value / per_step} for name, value in named.items()},
            "background": {name: seconds / self.num_steps for name, seconds in self.background.items()},
            "source": self.source,
            "amplification": count["frames_decoded"] / max(1, count["frames_used"]),
            "bytes_read_vs_needed": count["bytes_read"] / max(1, count["bytes_needed"]),
            "queue_depth": self.ready / self.num_steps,
            "videos_damaged": count["videos_damaged"],
        }

    def table(self) -> str:
        """The summary for people; "" before the first step."""
        found = self.summary()
        if not found:
            return ""
        lines = [f"step budget over {found['num_steps']} steps: {1e3 * found['seconds_per_step']:.1f} ms a step"]
        for name, phase in sorted(found["phases"].items(), key=lambda item: -item[1]["share"]):
            lines.append(f"  {name:12} {1e3 * phase['seconds']:9.1f} ms {100 * phase['share']:6.1f} %")
        behind = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found["background"].items())
        lines.append(f"  behind it, on this process's threads: {behind or 'nothing'}")
        lines.append(
            f"  clips from {found['source']}: {found['amplification']:.2f} frames decoded and "
            f"{found['bytes_read_vs_needed']:.2f} bytes read for one needed; {found['queue_depth']:.1f} steps ready "
            f"when one began; {found['videos_damaged']:.0f} damaged videos left out"
        )
        return "\n".join(lines)
