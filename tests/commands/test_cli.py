"""What every command does around its main."""

import io
import sys

import pytest

from modist_fast.commands.cli import run_cli


def test_names_that_the_terminal_has_no_letters_for_do_not_end_a_command(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as caught:
        run_cli(lambda: print("quarantined: 日本\udcff.mp4", flush=True))
    assert caught.value.code == 0
    assert written.getvalue() == b"quarantined: \\u65e5\\u672c\\udcff.mp4\n"
