"""The records of a run: JSON lines, a step each, and TensorBoard curves."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from modist_fast.errors import ConfigError
from modist_fast.host.whole_file import whole_file
from modist_fast.host.writer import Writer
from modist_fast.track.trackers import Tracker, grouped

_WRITE_SECONDS = 1.0  # lines are read by people, who do not mind
_INTACT = "Bring back an intact copy, or take the line out."


class LineFile:
    """A file of JSON lines, a step each; those past `start_step` of an earlier attempt are dropped.

    A thread writes, what there is at a time, about once a second: a step pays for no file. Leaving the context writes
    the rest.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        drop_lines_after(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._rows: list[Mapping[str, Any]] = []
        self._writer = Writer(path.stem)
        self._begun = -math.inf

    def write(self, row: Mapping[str, Any]) -> None:
        """Take in a line (`row["step"]`: steps done, counted from 1).

        Raises:
            OSError: those of an earlier step could not be written.
        """
        self._rows.append(row)
        if time.monotonic() - self._begun >= _WRITE_SECONDS and self._writer.is_free:
            self._begin()

    def flush(self) -> None:
        """Write what was taken in, before a checkpoint says that these steps were done.

        Raises:
            OSError: it could not be written.
        """
        if self._rows:
            self._begin()
        self._writer.wait()

    def _begin(self) -> None:
        rows, self._rows, self._begun = self._rows, [], time.monotonic()
        self._writer.begin(lambda: self._append(rows))

    def _append(self, rows: list[Mapping[str, Any]]) -> None:
        self._file.write("".join(map(_line_of, rows)))
        self._file.flush()

    def _close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        try:
            self.flush()
        finally:
            self._close()


class RunLog(LineFile):
    """RUN/metrics.jsonl, and the same in RUN/tensorboard and wherever else the run is tracked.

    Args:
        tracker: is closed with this.
    """

    def __init__(self, out: Path, start_step: int, tracker: Tracker | None = None) -> None:
        super().__init__(out / "metrics.jsonl", start_step)
        self._tracker = tracker
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start_step + 1)

    def _append(self, rows: list[Mapping[str, Any]]) -> None:
        super()._append(rows)
        for row in rows:
            found = {
                grouped(name): value for name, value in row.items() if isinstance(value, float) and math.isfinite(value)
            }
            for name, value in found.items():
                self._board.add_scalar(name, value, row["step"])
            if self._tracker is not None:
                self._tracker.log(found, row["step"])

    def picture(self, name: str, path: Path) -> None:
        """Show a PNG beside the curves."""
        with Image.open(path) as image:
            self._board.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")
        if self._tracker is not None:
            self._tracker.picture(name, path)

    def _close(self) -> None:
        try:
            super()._close()
        finally:
            self._board.close()
            if self._tracker is not None:
                self._tracker.close()


def drop_lines_after(path: Path, step: int) -> None:
    """Forget the steps that a resumed run takes again, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = [row for row in read_metrics(path) if row["step"] <= step]
    with whole_file(path) as half:
        half.write_text("".join(map(_line_of, kept)), encoding="utf-8")


def _line_of(row: Mapping[str, Any]) -> str:
    """JSON has no NaN: a step that was left out has null for its loss."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return json.dumps(finite) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, budget.jsonl or ledger.jsonl, null as NaN.

    A last one without its newline is one that a kill cut short.

    Raises:
        ConfigError: a line is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}). {_INTACT}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = dict(json.loads(line))
            if not isinstance(row["step"], int):
                raise TypeError("its step is no whole number")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(f"{path} is damaged in line {number} ({error!r}). {_INTACT}") from error
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows
