"""Pre-train with a bottleneck planted: planted.py FAULT RANK [pretrain.py's options]. RANK -1: on every rank.

The faults slow down real parts of a real run, or have them compute more; nothing tells the budget about them. How much
is a ratio of what this very process takes, so the same part holds the run back on a machine of any speed. That others
have the cores is hidden, but for the fault `busy`: there it is what is planted.
"""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modist_fast import step
from modist_fast.pathways import MoDist, Pathways
from modist_fast.run import checkpoint
from modist_fast.watch import metrics, run_log
from modist_fast.watch.spans import Spans, StepTimes
from modist_pipelines.clips import backends as decoders
from modist_pipelines.clips import reading as clip_reads
from modist_pipelines.store import reader as store

REPOSITORY = Path(__file__).resolve().parents[2]
SIDE = 768


class Pace:
    """The backward pass of this process's last step: a third of its own work. No fault, wait or message is in it."""

    seconds = 0.0
    _is_warm = False

    @classmethod
    def follow(cls) -> None:
        """Look at the times of each step. The first backward pass allocates, which makes it many times as long."""
        original = Spans.take

        def take(self: Spans) -> StepTimes:
            times = original(self)
            if (seconds := times.seconds().get("backward")) is not None:
                cls.seconds, cls._is_warm = seconds if cls._is_warm else 0.0, True
            return times

        Spans.take = take

    @classmethod
    def wait(cls, times: float) -> None:
        time.sleep(times * cls.seconds)


def _slow(owner: Any, name: str, times: float) -> None:
    """Have each call begin later, by so many backward passes."""
    original: Callable = getattr(owner, name)

    def slowed(*args: Any, **kwargs: Any) -> Any:
        Pace.wait(times)
        return original(*args, **kwargs)

    setattr(owner, name, slowed)


def _slow_network(times: float) -> None:
    """Gradients arrive late, once a step; backward is over by then."""
    original = step.allreduce_hook

    def late(future: torch.futures.Future) -> Tensor:
        Pace.wait(times)
        return future.value()

    def hook(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sent = original(group, bucket)
        return sent.then(late) if bucket.is_last() else sent

    step.allreduce_hook = hook


def _more_arithmetic(num_products: int) -> None:
    """The nets multiply large matrices too, of the size that the peak is measured with: they are near the peak."""
    original = Pathways.forward

    def forward(self: Pathways, visual: Tensor, motion: Tensor | None) -> Tensor:
        with torch.no_grad():
            square = visual.new_ones(SIDE, SIDE)
            for _ in range(num_products):
                torch.mm(square, square)
        return original(self, visual, motion)

    Pathways.forward = forward


def _busy_core(num_others: int) -> None:
    """All threads of this process share one core with others that never wait, and end with it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for _ in range(num_others):
        spin = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
        subprocess.Popen([sys.executable, "-c", spin])


def _bad_clip(number: int) -> None:
    """One number of this rank's clips of a step is a NaN."""
    original = step.TrainingStep.__call__

    def call(self: Any, batch: Any, *rest: Any) -> Any:
        if batch.step + 1 == number:
            batch.visual_query[0, 0, 0, 0, 0] = torch.nan
        return original(self, batch, *rest)

    step.TrainingStep.__call__ = call  # pyright: ignore[reportAttributeAccessIssue], it passes all on


def _bad_gradient(number: int) -> None:
    """A gradient of this rank overflows in a step; its loss is finite."""
    original = step.TrainingStep._pass

    def passed(self: Any, index: int, *rest: Any) -> Any:
        self.planted = getattr(self, "planted", 0) + 1
        if self.planted > (number - 1) * self._num_passes:
            parameter = next(self.model.online.parameters())
            handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
            try:
                return original(self, index, *rest)
            finally:
                handle.remove()
        return original(self, index, *rest)

    step.TrainingStep._pass = passed  # pyright: ignore[reportAttributeAccessIssue], likewise


def _no_memory(number: int) -> None:
    """The loss of a step asks for a petabyte."""
    original = step.TrainingStep._loss

    def loss(self: Any, *inputs: Any) -> Any:
        self.planted = getattr(self, "planted", 0) + 1
        if self.planted > (number - 1) * self._num_passes:
            torch.empty(1 << 50, dtype=torch.uint8)
        return original(self, *inputs)

    step.TrainingStep._loss = loss  # pyright: ignore[reportAttributeAccessIssue], likewise


# In backward passes a call. A step of its own is three or four of them; it loads four videos, and plans, reads and
# decodes them by eight, four and two calls.
FAULTS: dict[str, Callable[[], None]] = {
    "read": lambda: _slow(store.Store, "read", 6),
    "plan": lambda: _slow(clip_reads, "plan_clips", 3),
    "decode": lambda: _slow(decoders.CpuDecoder, "decode", 12),
    "momentum": lambda: _slow(MoDist, "update_momentum", 16),
    # Far more than two ranks can differ that share their cores with others.
    "all_reduce": lambda: _slow_network(50),
    "log": lambda: _slow(run_log.RunLog, "write", 16),
    "checkpoint": lambda: _slow(checkpoint, "save", 16),
    # Two calls and some fifteen times the step: however well it computes, it stays near a twentieth of the peak.
    "calls": lambda: _slow(Pathways, "forward", 40),
    "arithmetic": lambda: _more_arithmetic(6),
    "busy": lambda: _busy_core(3),
    "bad-clip": lambda: _bad_clip(2),
    "bad-gradient": lambda: _bad_gradient(4),
    "no-memory": lambda: _no_memory(1),
    "no-memory-later": lambda: _no_memory(4),
}


def main() -> None:
    fault, rank, *options = sys.argv[1:]
    if int(rank) in (-1, int(os.environ.get("RANK", 0))):
        Pace.follow()
        FAULTS[fault]()
    if fault != "busy":
        metrics.seconds_without_core = lambda: 0.0  # the tests share their machine
    script = REPOSITORY / "launch" / "pretrain.py"
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
