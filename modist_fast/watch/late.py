"""The line of a step, one step late: the host never waits for the step it launched."""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from torch import Tensor

from modist_fast.errors import DivergedError
from modist_fast.host.read_later import ReadLater
from modist_fast.watch.finite import REMEDY
from modist_fast.watch.gradients import GradientCheck, is_skipped, take_fault
from modist_fast.watch.run_log import RunLog

LEAST_SCALE = 2.0**-10
"""Of fp16's loss. Every step that overflows halves it from 65536; that is 26 of them with next to none between."""
Launched = TypeVar("Launched")


class LateLines(ABC, Generic[Launched]):
    """Turns what a step came to into its line, while the next one runs.

    The ranks' figures meet in one small message, so every rank learns the same: whether the loss is still finite, and
    whether any rank was told to stop.

    Args:
        check: names the tensor whose gradient is not finite.
        run_log: takes the lines, on rank 0.

    Attributes:
        stop_agreed: whether a rank was, as far as lines are written.
    """

    whose = ""  # loss, in the error: follows the step

    def __init__(self, check: GradientCheck | None = None, run_log: RunLog | None = None) -> None:
        self.stop_agreed = False
        self._check, self._log = check, run_log
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
        if not math.isfinite(row["loss"]):
            at = f"at step {row['step']}{self.whose}"
            gradients = f" Gradients were not finite{fault}." if fault else ""
            raise DivergedError(
                f"the loss became {row['loss']} {at}. No checkpoint holds that step.{gradients} {REMEDY}"
            )
        if (scale := found.get("loss_scale")) is not None:
            row["step_skipped"] = float(skipped)
            if scale < LEAST_SCALE:
                raise DivergedError(
                    f"the loss scale of fp16 has come down to {scale:g} at step {row['step']}, since steps overflow "
                    f"again and again{fault}. They are left out, so nothing is learned. {REMEDY}"
                )
        elif fault:
            raise DivergedError(
                f"the gradients became not finite at step {row['step']}{fault}. No checkpoint holds that step. {REMEDY}"
            )
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
