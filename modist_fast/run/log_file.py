"""OUT/log.txt: what a command said, with the times, also where nobody looked at the terminal."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "log.txt"
_KEPT = 1000  # lines
_LOG = logging.getLogger("modist")


class _Early(logging.Handler):
    """Keeps the lines that come before it is known that there is to be a file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _File(logging.FileHandler):
    """The file, which comes to be with its first line after `begin`; those before wait for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._waiting: deque[logging.LogRecord] | None = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting is None:
            super().emit(record)
        else:
            self._waiting.append(record)

    def begin(self) -> None:
        """Write what waits, and from now on what comes."""
        waiting, self._waiting = self._waiting or (), None
        for record in waiting:
            super().emit(record)


@contextmanager
def early_lines_kept() -> Iterator[None]:
    """What is logged in here waits for the folder that `logged_to` names. Around a whole command."""
    early = _Early()
    _LOG.addHandler(early)
    try:
        yield
    finally:
        _LOG.removeHandler(early)


@contextmanager
def logged_to(out: Path) -> Iterator[None]:
    """OUT/log.txt has what is logged in here and was before, after what it held, if `begin_log` is called in here.

    An error that comes through is its last line.
    """
    file = _File(out / NAME)
    for early in [each for each in _LOG.handlers if isinstance(each, _Early)]:
        while early.records:
            file.emit(early.records.popleft())
    _LOG.addHandler(file)
    try:
        yield
    except BaseException as error:
        file.emit(logging.makeLogRecord({"msg": f"ended by {type(error).__name__}: {error}"}))
        raise
    finally:
        _LOG.removeHandler(file)
        file.close()


def begin_log() -> None:
    """To be called when the folder is this command's: one that is refused leaves the log of another as it is."""
    for file in [each for each in _LOG.handlers if isinstance(each, _File)]:
        file.begin()
