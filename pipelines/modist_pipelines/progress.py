"""How far a stretch of work has come: a bar on a terminal, else a line in the log every few seconds."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("modist")
_OFTEN, _SELDOM = 5.0, 30.0  # seconds from one line to the next, in the first minute and after it
_FIRST_MINUTE = 60.0
_NARROW = 100  # columns of a terminal below which only what matters most is shown


class Progressing:
    """Counts things that are worked on, and says so while they are: a thread speaks, so that a long one is not silent.

    On a terminal the lines go to the log's file alone (`to_file_only`), since the bar says the same.

    Args:
        what: the words before the numbers: "features".
        total: how many there are.
        unit: what they are: "videos".
        shown: False says nothing: ranks but the first, and where somebody else shows it.
        done: of them, before this stretch began.
        brief: where it is over before the first line is due, nothing is left of it.
    """

    def __init__(
        self, what: str, total: int, unit: str = "", shown: bool = True, done: int = 0, brief: bool = False
    ) -> None:
        self._what, self._total, self._unit = what, total, f" {unit}" * bool(unit)
        self._first = self._done = done
        self._note = self._more = ""
        self._is_begun = False
        console = Console(stderr=True, soft_wrap=True)  # no line above the bar breaks a path
        self._shown = shown and log.isEnabledFor(logging.INFO)  # who calls us from Python may want none of it
        self._live = self._shown and console.is_terminal
        self._is_narrow = console.width < _NARROW
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=5 if self._is_narrow else None),
            TextColumn("{task.fields[note]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self._live,
            transient=brief,
        )
        self._task = self._bar.add_task(self._counted(), total=total, completed=done, note="")
        self._start = time.monotonic()
        self._is_over = threading.Event()
        self._speaker = threading.Thread(target=self._speak, name="progress", daemon=True)
        self._must_speak = not brief

    def begin(self) -> None:
        """The next one is begun; the one before it is done."""
        self.at(min(self._done + 1, self._total), begun=True)

    def at(self, done: int, note: str = "", more: str = "", begun: bool = False) -> None:
        """So many are done, those of earlier stretches included.

        Args:
            note: figures that are always shown.
            more: figures for which narrow terminals have no room.
            begun: the last of them is not over yet.
        """
        self._done, self._note, self._more, self._is_begun = done, note, more, begun
        text = note if self._is_narrow else f"{note}{more}"
        self._bar.update(self._task, description=self._counted(), completed=done - begun, note=text)

    def _counted(self) -> str:
        return f"{self._what} {self._done}/{self._total}{self._unit}"

    def _speak(self) -> None:
        while not self._is_over.wait(_OFTEN if time.monotonic() - self._start < _FIRST_MINUTE else _SELDOM):
            self._say()

    def _say(self, is_over: bool = False) -> None:
        elapsed, done = time.monotonic() - self._start, self._done - self._is_begun
        if is_over or done <= self._first:
            when = f"{_clock(elapsed)} so far" if not is_over else f"in {_clock(elapsed)}"
        else:
            when = f"ETA {_clock(elapsed / (done - self._first) * (self._total - done))}"
        self._must_speak = True
        figures = f"  {self._note}{self._more}" if self._note else ""
        log.info("%s%s  %s", self._counted(), figures, when, extra={"to_file_only": True} if self._live else None)

    def __enter__(self) -> Self:
        if self._shown:
            self._bar.start()
            self._speaker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if not self._shown:
            return
        self._is_over.set()
        self._speaker.join()
        self._is_begun = False
        if error is None and self._must_speak:
            self._say(is_over=True)
        self._bar.update(self._task, completed=self._done)
        self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
