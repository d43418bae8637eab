"""The line of a step, one step late: the host never waits for the step it launched."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from torch import Tensor

from modist_fast.errors import DivergedError
from modist_fast.host.distributed import is_main_process
from modist_fast.host.read_later import ReadLater
from modist_fast.watch.finite import REMEDY
from modist_fast.watch.gradients import GradientCheck, is_skipped, take_fault
from modist_fast.watch.run_log import RunLog

log = logging.getLogger("modist")
LEAST_SCALE = 2.0**-10
"""Of fp16's loss. Every step that overflows halves it from 65536; that is 26 of them with next to none between."""
Launched = TypeVar("Launched")


class LeftOut:
    """Steps that a run has left out since it began, resumed ones included, and how many it may.

    Args:
        limit: of --max-bad-steps.
    """

    def __init__(self, limit: int) -> None:
        self.count, self._limit = 0, limit

    def add(self, at: str, fault: str) -> None:
        """Count one more.

        Args:
            at, fault: when and what, for the message.

        Raises:
            DivergedError: it is one too many.
        """
        self.count += 1
        if self.count > self._limit:
            raise DivergedError(
                f"the gradients became not finite {at}{fault}. {self.count} steps of this run were left out now, more "
                f"than --max-bad-steps {self._limit}. {REMEDY}"
            )
        if is_main_process():
            log.warning(
                "WARNING: the gradients became not finite %s%s. The step was left out: weights, momentum nets, banks, "
                "statistics and optimizer are as before it. It is number %d of the --max-bad-steps %d that may be.",
                at,
                fault,
                self.count,
                self._limit,
            )


class LateLines(ABC, Generic[Launched]):
    """Turns what a step came to into its line, while the next one runs.

    The ranks' figures meet in one small message, so every rank learns the same: whether the loss is still finite, and
    whether any rank was told to stop.

    Args:
        check: counts gradients that are not finite.
        run_log: takes the lines, on rank 0.
        left_out: where the device leaves such steps out; None ends the run at the first.

    Attributes:
        stop_agreed: whether a rank was, as far as lines are written.
    """

    whose = ""  # loss, in the error: follows the step

    def __init__(
        self, check: GradientCheck | None = None, run_log: RunLog | None = None, left_out: LeftOut | None = None
    ) -> None:
        self.stop_agreed = False
        self._check, self._log, self._left_out = check, run_log, left_out
        self._pending: tuple[Launched, list[str], ReadLater] | None = None

    def flush(self) -> None:
        """Write the line that is due, and have all lines on the disk; waits until the device has computed it.

        Raises:
            DivergedError: see `_write_due`.
            OSError: a line could not be written.
        """
        self._write_due()
        if self._log is not None:
            self._log.flush()

    def _write_due(self) -> None:
        """Write the line that is due; waits until the device has computed it.

        Raises:
            DivergedError: its loss or its gradients are not finite; in fp16, where a step that overflows is left out
                and counted, the loss scale has come down to nothing.
        """
        if self._pending is None:
            return
        (launched, names, figures), self._pending = self._pending, None
        found = dict(zip(names, figures.tolist(), strict=True))
        self.stop_agreed = found.pop("stop") > 0
        skipped = is_skipped(found)
        fault = take_fault(found, self._check.names if self._check else [])
        row = self._row(launched, found)
        at = f"at step {row['step']}"
        finite, scale = math.isfinite(row["loss"]), found.get("loss_scale")
        if self._left_out is not None and fault and (scale is None or not finite):  # an overflow of fp16 is no bad step
            self._left_out.add(at, fault)
        elif not finite:
            gradients = f" Gradients were not finite{fault}." if fault else ""
            raise DivergedError(
                f"the loss became {row['loss']} {at}{self.whose}. No checkpoint holds that step.{gradients} {REMEDY}"
            )
        elif fault and scale is None:
            raise DivergedError(f"the gradients became not finite {at}{fault}. No checkpoint holds that step. {REMEDY}")
        if scale is not None and scale < LEAST_SCALE:
            raise DivergedError(
                f"the loss scale of fp16 has come down to {scale:g} at step {row['step']}, since steps overflow "
                f"again and again{fault}. They are left out, so nothing is learned. {REMEDY}"
            )
        if scale is not None or self._left_out is not None:
            row["step_skipped"] = float(skipped)
        self._write(row, launched)

    def _follow(self, launched: Launched, names: list[str], figures: Tensor) -> None:
        """Take in the step just launched, and write the line of the one before.

        Args:
            names, figures: (n,) of all ranks together, on the device; "stop" is above 0 where one was told to stop.
        """
        pending = launched, names, ReadLater(figures)  # on its way before a line is waited for
        self._write_due()
        self._pending = pending

    @abstractmethod
    def _row(self, launched: Launched, found: dict[str, float]) -> dict[str, Any]:
        """The line, "step" and "loss" in it, from what was known at the launch and what the figures came to."""

    @abstractmethod
    def _write(self, row: dict[str, Any], launched: Launched) -> None: ...
