"""What every command does around its main."""

import io
import os
import subprocess
import sys

import pytest

from modist_fast.commands.cli import run_cli
from tests.commands.launching import HANG, REPOSITORY


def test_names_that_the_terminal_has_no_letters_for_do_not_end_a_command(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as caught:
        run_cli(lambda: print("quarantined: 日本\udcff.mp4", flush=True))
    assert caught.value.code == 0
    assert written.getvalue() == b"quarantined: \\u65e5\\u672c\\udcff.mp4\n"


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["prepare", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(words, unbuffered):
    """As `modist … | head` does: the pipe is closed before anything is written into it."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "modist_fast", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=HANG,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_broken_pipe_is_one():
    def main():
        raise BrokenPipeError("of a socket, say")

    with pytest.raises(BrokenPipeError, match="of a socket"):
        run_cli(main)
