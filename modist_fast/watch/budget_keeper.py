"""Keeps the step budget of a run: gathers the ranks' windows, writes RUN/budget.jsonl and RUN/budget.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modist_fast.config import TrainConfig
from modist_fast.host.core_wait import load_in_words
from modist_fast.host.device_monitor import DeviceMonitor
from modist_fast.host.distributed import World, gather_rows
from modist_fast.host.read_later import ReadLater
from modist_fast.pathways import Pathways
from modist_fast.watch.budget import RankBudget, RunBudget, RunFacts, table
from modist_fast.watch.rates import count_flops, peak_flops, peak_memory
from modist_fast.watch.verdict import verdict


class BudgetKeeper:
    """One process's side of the budget. All ranks call `add` and `close` at the same steps.

    A window's sums travel in one message, a few hundred bytes a rank every twenty steps, and are read when the
    next step is written, so that no GPU waits for them.

    Args:
        world: who this process is.
        facts: of the run; see `facts_of`.
        out: the run directory.
    """

    def __init__(self, world: World, facts: RunFacts, out: Path) -> None:
        self._world, self._facts, self._out = world, facts, out
        self._mine, self._run = RankBudget(), RunBudget(world.size)
        self._monitor = DeviceMonitor(world.device)
        self._sent: tuple[int, ReadLater] | None = None
        self._step = 0

    def memory(self) -> dict[str, float]:
        """See `peak_memory`."""
        return peak_memory(self._world.device)

    def add(
        self,
        step: int,
        seconds: float,
        phases: Mapping[str, float],
        background: Mapping[str, float],
        counters: Mapping[str, float],
        *,
        launch: float,
        ready: int,
        core_wait: float,
    ) -> None:
        """Take in step `step` (counted from 1); see `RankBudget.add`."""
        self._receive()
        self._mine.add(seconds, phases, background, counters, launch=launch, ready=ready, core_wait=core_wait)
        self._step = step
        if self._mine.is_due:
            self._send()

    def _send(self) -> None:
        window = self._mine.take(**self.memory())
        self._sent = (self._step, ReadLater(gather_rows(window, self._world.device)))

    def _receive(self) -> None:
        if self._sent is None:
            return
        (step, rows), self._sent = self._sent, None
        line = self._run.add(step, rows.tolist())
        if self._world.is_main:
            with (self._out / "budget.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def close(self) -> dict[str, Any]:
        """Take in the last window and stop watching; RUN/budget.json on rank 0.

        Returns:
            The summary with its verdict; {} for a run too short to judge.
        """
        self._receive()
        if self._mine.values["num_steps"]:
            self._send()
            self._receive()
        self._monitor.close()
        summary = self._run.summary(self._facts, self._monitor.means())
        if summary:
            found = verdict(summary | {"load": load_in_words()})
            straggler = asdict(found.straggler) if found.straggler else None
            summary |= {"straggler": straggler, "bottleneck": found.bottleneck, "verdict": found.line}
        if self._world.is_main:
            (self._out / "budget.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return summary


def describe(summary: Mapping[str, Any]) -> str:
    """The budget for people, its verdict last."""
    return f"{table(summary)}\n{summary['verdict']}" if summary else "too few steps for a step budget"


def facts_of(
    config: TrainConfig, world: World, dtype: torch.dtype, source: str, rejected_windows: float | None
) -> RunFacts:
    """What a run's budget is held against. Measures the device's peak, so every rank calls it, before the loop."""
    rate, name = peak_flops(world.device, dtype)
    return RunFacts(
        batch_size=config.batch_size,
        clips_per_sample=4 if config.objective.motion else 2,
        source=source,
        device=world.device.type,
        flops_per_step=step_flops(config),
        peak_flops=rate * world.size,
        peak_source=name if world.size == 1 else f"{world.size} × {name}",
        rejected_windows=rejected_windows,
    )


def step_flops(config: TrainConfig) -> int:
    """Operations of the nets in a step, over all ranks: queries forward and backward, keys forward."""
    clips, num = config.clips, config.group_size
    with torch.device("meta"):
        net = Pathways(config.model, config.motion_channels)
        visual = torch.empty(num, 3, clips.visual.num_frames, clips.crop_size, clips.crop_size)
        motion = torch.empty(num, config.motion_channels, clips.motion.num_frames, clips.crop_size, clips.crop_size)
    inputs = [visual, motion if config.objective.motion else None]
    per_group = count_flops(net, inputs, backward=True) + count_flops(net, inputs, backward=False)
    return per_group * (config.batch_size // num)
