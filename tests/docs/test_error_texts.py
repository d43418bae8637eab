"""Every error that a user can meet says what to do, and docs/troubleshooting.md quotes none that is not there."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import error_texts
import pytest
from error_texts import Text, texts

from modist_pipelines.video.reader import REASONS
from tests.commands.launching import REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
# Errors that hand on another one's words, which stand where that was made.
HANDED_ON = {
    "ConfigError(answer[1])",
    "ConfigError(str(error))",
    "ConfigError(str(error).replace('--backbone', '--init-from'))",
    "SaveError(cannot_write(half.parent, reason, num_bytes(state)))",
    "_print_once(str(error))",
}


def test_every_error_says_what_to_do() -> None:
    found = texts()
    assert len(found) > 280, "the reader of errors is blind"
    assert {"ConfigError", "DataError", "ReportError", "SaveError", "DivergedError"} <= {text.kind for text in found}
    without = [f"{text.path.relative_to(REPOSITORY)}:{text.line}: {text.words}" for text in found if not text.split[1]]
    assert without == []
    assert error_texts.handed_on() == HANDED_ON


@pytest.mark.parametrize(
    ("words", "wrong", "cure"),
    [
        ("--out … is a file. Choose a folder.", "--out … is a file.", "Choose a folder."),
        ("--store is missing: pass the store.", "--store is missing", "pass the store."),
        ("--preset …: no such preset. There are: ….", "--preset …: no such preset.", "There are: …."),
        ("--dropout …: it must be below 1.", "--dropout …", "it must be below 1."),
        ("… has frames in the run that nobody can use.", "… has frames in the run that nobody can use.", ""),
        ("none of the files can be read (…).", "none of the files can be read (…).", ""),
    ],
)
def test_a_text_is_split_where_it_tells_somebody_to_do_something(words: str, wrong: str, cure: str) -> None:
    assert Text(Path(), 1, "ConfigError", words).split == (wrong, cure)


def test_texts_are_put_together_as_python_would() -> None:
    code = """
REMEDY = "Lower the rate."
def _why(error):
    return f"the file {error} is not whole"
def check(out, names, error):
    if (wrong := _why(error)):
        raise ConfigError(wrong)
    message = f"--out {out}: " + ("none of them" if names else "nothing") + f". {REMEDY}"
    raise DataError(message)
def hand_on(error):
    raise ConfigError(str(error))
"""
    found = list(error_texts._of_module(REPOSITORY / "x.py", ast.parse(code), {"ConfigError", "DataError"}, {}))
    assert {text.words for text in found} == {"the file … is not whole", "--out …: none of them. Lower the rate."}
    assert [text.line for text in found] == [9, 7]


def quoted() -> list[str]:
    """The texts of errors that the page explains: terms of its lists."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    terms = [line for line, after in pairwise(lines) if after.startswith(":   ")]
    return [part for line in terms for part in re.findall(r"`([^`]+)`", line)]


def test_the_page_quotes_errors_that_there_are() -> None:
    known = [text.words for text in texts()]
    code = {"modist: command not found"}  # the shell's
    found = [term for term in quoted() if term not in code]
    assert len(found) > 35, "the reader of the page is blind"
    for term in found:
        pattern = re.compile(".*".join(map(re.escape, term.split("…"))))
        assert any(pattern.search(words) for words in known), term


def test_the_page_has_the_reasons_of_the_quarantine() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == set(REASONS)


def test_the_list_of_the_site_has_every_text() -> None:
    page = error_texts.whole_list()
    for text in texts():
        wrong, cure = text.split
        assert (wrong or cure).replace("`", "") in page
        assert error_texts._escaped(cure) in page
    assert page.count("\n## ") == len({text.room for text in texts()})
