"""The lines of pre-training, a step each, and a display for whoever watches."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from modist_fast.host.core_wait import seconds_without_core
from modist_fast.host.distributed import mean_over_ranks
from modist_fast.watch.budget_keeper import BudgetKeeper
from modist_fast.watch.collapse import CollapseAlarm
from modist_fast.watch.gradients import GradientCheck
from modist_fast.watch.late import LateLines, LeftOut
from modist_fast.watch.ledger import Ledger, digest_of_figures, digest_of_samples
from modist_fast.watch.run_log import RunLog
from modist_fast.watch.spans import Spans, StepTimes
from modist_pipelines.clips.loader import ClipBatch
from modist_pipelines.progress import Progressing

Watcher = Callable[[int, int, Mapping[str, Any]], None]
"""Called on rank 0 after each step, a step late: steps done, steps in all, and the step's line of metrics.jsonl."""


class Display:
    """What rank 0 shows: a live bar on a terminal, else a log line every few seconds.

    Args:
        watcher: shows each step in place of these.
    """

    def __init__(self, num_steps: int, start_step: int, shown: bool, watcher: Watcher | None = None) -> None:
        self._watcher, self._shown, self._num_steps = watcher, shown, num_steps
        self._progress = Progressing("step", num_steps, shown=shown and watcher is None, done=start_step)

    def __enter__(self) -> "Display":
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._progress.__exit__(kind, error, trace)

    def update(self, row: dict[str, Any]) -> None:
        """Show the figures of a step."""
        if not self._shown:
            return
        if self._watcher is not None:
            self._watcher(row["step"], self._num_steps, row)
            return
        speed = f"  {row['samples_per_s']:.1f} samples/s  data wait {100 * row['data_wait']:.0f} %"
        self._progress.at(row["step"], _learned(row), speed)


def _learned(row: Mapping[str, Any]) -> str:
    """Loss and top-1. Against few negatives they say little, and against none they are 0 and 100 %: then it says so."""
    filled = row.get("bank_filled", 1.0)
    if not filled:
        return "bank empty"
    said = f"loss {row['loss']:.3f}  top-1 {100 * row['top1_visual']:.0f} %"
    return said if filled >= 1 else f"bank filling {100 * filled:.0f} %  {said}"


@dataclass(frozen=True)
class _Launched:
    """A step that was launched, and may not be over yet."""

    row: dict[str, Any]
    times: StepTimes
    data_wait: float
    """Seconds that the host waited for the step's clips."""
    background: dict[str, float]
    counters: dict[str, int]
    in_budget: bool
    samples: str
    """Their digest, for the ledger."""


class Recorder(LateLines[_Launched]):
    """Lines of pre-training: figures averaged over the ranks, and where the time went."""

    whose = ", on one rank or more"

    def __init__(
        self,
        batch_size: int,
        spans: Spans,
        run_log: RunLog | None,
        display: Display,
        budget: BudgetKeeper,
        check: GradientCheck | None = None,
        alarm: CollapseAlarm | None = None,
        left_out: LeftOut | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(check, run_log, left_out)
        self._alarm, self._ledger = alarm, ledger
        self._batch_size, self._spans, self._display = batch_size, spans, display
        self._budget = budget
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()
        self._core_clock = seconds_without_core()

    def push(
        self, batch: ClipBatch, learning_rate: float, figures: dict[str, Tensor], stop: bool, in_budget: bool = True
    ) -> None:
        """Take in the step just launched, and write the line of the one before.

        Args:
            batch: its clips.
            learning_rate: that it took.
            figures: that it returned.
            stop: whether this process was told to stop.
            in_budget: False for a step that a profiler made slower.

        Raises:
            ConfigError: the loss of the step before was not finite.
        """
        with self._spans("log"):
            device = next(iter(figures.values())).device
            mine = {"stop": torch.full((), float(stop), device=device), **figures}
            mean = torch.stack(list(mine.values()))
            mean_over_ranks([mean])
        with self._spans("checks", launches=False):
            samples = digest_of_samples(batch.video_ids, batch.deal) if self._ledger is not None else ""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        cpu_now = time.process_time()
        cpu_seconds, self._cpu_clock = cpu_now - self._cpu_clock, cpu_now
        core_now = seconds_without_core()
        core_wait, self._core_clock = core_now - self._core_clock, core_now
        row = {
            "step": batch.step + 1,
            "epoch": batch.epoch,
            "lr": learning_rate,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,  # of this process, all threads: on a machine that others share, its cost
            "core_wait": core_wait / seconds,  # share of the step that this thread was ready to run, without a core
            "samples_per_s": self._batch_size / seconds,
            "loader_spans": batch.spans,
            "queue_depth": batch.queue_depth,
            **batch.counters,
        }
        times = self._spans.take()
        launched = _Launched(row, times, batch.data_wait, batch.spans, batch.counters, in_budget, samples)
        self._follow(launched, list(mine), mean)

    def flush(self) -> None:
        super().flush()
        if self._ledger is not None:
            self._ledger.flush()

    def _write_due(self) -> None:
        with self._spans("log", launches=False):  # a host that is ahead of a GPU waits here until it has caught up
            super()._write_due()

    def _row(self, launched: _Launched, found: dict[str, float]) -> dict[str, Any]:
        if self._ledger is not None:
            self._figures = digest_of_figures(found)
        return launched.row | found

    def _write(self, row: dict[str, Any], launched: _Launched) -> None:
        data_wait, spans = launched.times.data_wait(launched.data_wait), launched.times.seconds()
        row |= {"data_wait": data_wait / row["seconds"], "spans": spans, **self._budget.memory()}
        if self._log is not None:
            self._log.write(row)
        if self._ledger is not None:
            line = {"step": row["step"], "samples": launched.samples, "loss": row["loss"], "figures": self._figures}
            self._ledger.write(line)
        self._display.update(row)
        if self._alarm is not None and not row.get("step_skipped"):
            self._alarm.see(row["step"], row)
        if not launched.in_budget:
            return
        self._budget.add(
            row["step"],
            row["seconds"],
            {"data_wait": data_wait, **spans},
            launched.background,
            launched.counters | {"videos_damaged": round(row["videos_damaged"])},
            launch=launched.times.host_seconds,
            ready=row["queue_depth"],
            core_wait=row["core_wait"] * row["seconds"],
        )
