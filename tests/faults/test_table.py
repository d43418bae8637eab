"""docs/reliability.md: each test that it names is there, and runs with `make faults`."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")


def named() -> dict[str, set[str]]:
    """File to the tests of it that the page names; none of them where it names the file alone."""
    found: dict[str, set[str]] = {}
    file = ""
    for words in re.findall(r"`([\w.]*::test_\w+|test_\w+\.py)`", PAGE):
        before, _, test = words.partition("::")
        file = before or file  # `::test_b` after `test_a.py::test_a` is of the same file
        found.setdefault(file, set()).update({test} - {""})
    return found


NAMED = named()


def has_mark(nodes: list[ast.expr]) -> bool:
    return any("mark.fault" in ast.unparse(node) for node in nodes)


def test_the_page_names_many() -> None:
    assert len(NAMED) > 20
    assert sum(map(len, NAMED.values())) > 40


@pytest.mark.parametrize("file", sorted(NAMED))
def test_what_the_page_names_is_there_and_marked(file: str) -> None:
    (path,) = REPOSITORY.joinpath("tests").rglob(file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole_file = any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark" and has_mark([node.value])
        for node in tree.body
    )
    tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert NAMED[file] <= tests.keys(), f"{file} has no {NAMED[file] - tests.keys()}"
    for name in NAMED[file] or {name for name in tests if name.startswith("test_")}:
        assert whole_file or has_mark(tests[name].decorator_list), f"{file}::{name} is not marked as a fault"
