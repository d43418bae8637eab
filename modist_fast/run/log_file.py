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
    """The file, which comes to be with its first line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))


@contextmanager
def early_lines_kept() -> Iterator[None]:
    """What is logged in here waits for the file that `begin_log` opens. Around a whole command."""
    early = _Early()
    _LOG.addHandler(early)
    try:
        yield
    finally:
        _LOG.removeHandler(early)


def begin_log(out: Path) -> None:
    """From now on OUT/log.txt has what is logged, after what it held before, until `ended_log` is left.

    To be called on rank 0, once `out` is this run's: a start that is refused leaves another run's log as it is.
    """
    if _files():
        return
    file = _File(out / NAME)
    for early in [each for each in _LOG.handlers if isinstance(each, _Early)]:
        while early.records:
            file.emit(early.records.popleft())
    _LOG.addHandler(file)


@contextmanager
def ended_log() -> Iterator[None]:
    """Close what was begun in here; an error that comes through is its last line."""
    try:
        yield
    except BaseException as error:
        for file in _files():
            file.emit(logging.makeLogRecord({"msg": f"ended by {type(error).__name__}: {error}"}))
        raise
    finally:
        for file in _files():
            _LOG.removeHandler(file)
            file.close()


def _files() -> list[_File]:
    return [each for each in _LOG.handlers if isinstance(each, _File)]
