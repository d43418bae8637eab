"""Work that takes long is not silent, whoever looks; work that is over at once says nothing."""

import logging
import threading

import pytest

from modist_pipelines import progress
from modist_pipelines.progress import Progressing

HANG = 300  # seconds


class Heard(logging.Handler):
    """The lines, and an event for the first that is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.one = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.one.set()


@pytest.fixture
def heard(caplog):
    caplog.set_level(logging.INFO, "modist")
    handler = Heard()
    logging.getLogger("modist").addHandler(handler)
    yield handler
    logging.getLogger("modist").removeHandler(handler)


def test_one_long_item_is_spoken_of_while_it_lasts(heard, monkeypatch):
    monkeypatch.setattr(progress, "_OFTEN", 0.01)
    with Progressing("features", 4, "videos") as work:
        work.begin()
        work.begin()
        heard.one.clear()
        assert heard.one.wait(HANG)  # nothing but the thread speaks here
        work.at(4)
    assert any(line.startswith("features 2/4 videos  ETA ") for line in heard.lines)
    assert heard.lines[-1].startswith("features 4/4 videos  in 0:0")


def test_the_estimate_counts_what_is_over_in_this_stretch(heard, monkeypatch):
    """Ten seconds for 2 of the 8 that are left after the 4 of an earlier stretch: 30 for the others."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Progressing("step", 12, done=4)
    now[0] += 10
    work.at(7, "loss 1.0", "  3 samples/s", begun=True)
    work._say()
    assert heard.lines == ["step 7/12  loss 1.0  3 samples/s  ETA 0:30"]


def test_what_is_brief_and_what_others_show_is_silent(heard):
    with Progressing("classifier", 3, "folds", brief=True) as work:
        work.begin()
    with Progressing("features", 3, "videos", shown=False) as work:
        work.begin()
    logging.getLogger("modist").setLevel(logging.WARNING)  # caplog sets it back
    with Progressing("features", 3, "videos") as work:
        work.begin()
    assert not work._speaker.is_alive()
    assert heard.lines == []


def test_an_error_leaves_no_last_line_that_looks_like_an_end(heard):
    work = Progressing("features", 3, "videos")
    with pytest.raises(RuntimeError), work:
        raise RuntimeError
    assert heard.lines == []
    assert not work._speaker.is_alive()
