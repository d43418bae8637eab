"""OUT/log.txt: what was said before and after the folder was taken, once, and how it ended."""

import logging

import pytest

from modist_fast.errors import ConfigError
from modist_fast.run.files import traces
from modist_fast.run.log_file import begin_log, early_lines_kept, logged_to


@pytest.fixture(autouse=True)
def spoken(caplog):
    caplog.set_level(logging.INFO, "modist")


def refused(out, message, begun=True):
    with early_lines_kept(), logged_to(out):
        logging.getLogger("modist").info("options")
        if begun:
            begin_log()
        raise ConfigError(message)


def said(path):
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_lines_before_and_after_and_of_a_resumed_run(tmp_path):
    log = logging.getLogger("modist")
    for attempt in ("first", "second"):
        with early_lines_kept():
            log.info("options of the %s", attempt)
            with logged_to(tmp_path):
                begin_log()
                begin_log()  # a fold of the same command
                log.info("%s begins", attempt)
            log.info("outside")
    assert said(tmp_path / "log.txt") == [
        "options of the first",
        "first begins",
        "options of the second",
        "second begins",
    ]


def test_the_error_that_ended_it_is_the_last_line(tmp_path):
    with pytest.raises(ConfigError):
        refused(tmp_path, "--store S is gone.")
    assert said(tmp_path / "log.txt") == ["options", "ended by ConfigError: --store S is gone."]


def test_a_refused_start_writes_nothing(tmp_path):
    with pytest.raises(ConfigError):
        refused(tmp_path, "--out already holds a run.", begun=False)
    assert list(tmp_path.iterdir()) == []


def test_a_log_alone_is_no_run(tmp_path):
    """Such a folder is what a run leaves that ended before its first file: nothing stands against another start."""
    (tmp_path / "log.txt").write_text("options\n")
    assert traces(tmp_path) == []
    (tmp_path / "config.json").write_text("{}")
    assert {path.name for path in traces(tmp_path)} == {"config.json", "log.txt"}
