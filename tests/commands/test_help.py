"""Every option of every command says what it does, in a paragraph that the terminal alone breaks."""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import tyro

from modist_fast.__main__ import COMMANDS
from modist_fast.commands import cli
from modist_fast.run.help_texts import dataclasses_in, give_help


class Asked(Exception):
    """In place of parsing."""


def parsers(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command hands to tyro or argparse: a type, or a parser."""
    found: list[Any] = []

    def take(kind: Any, *args: Any, **options: Any) -> None:
        found.append(kind)
        raise Asked

    def take_parser(self: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        found.append(self)
        raise Asked

    monkeypatch.setattr(tyro, "cli", take)
    monkeypatch.setattr(cli.Parser, "parse_args", take_parser)
    module = importlib.import_module(COMMANDS[name][0])
    task = {"evaluate": ["linear"], "pretrain": ["--preset", "demo"], "store": ["info"]}
    monkeypatch.setattr(sys, "argv", ["modist", *task.get(name, [])])
    with pytest.raises(Asked):
        module.main()
    return found


def helps(parser: Any) -> Iterator[tuple[str, str | None]]:
    """Each option and its help."""
    if isinstance(parser, argparse.ArgumentParser):
        for action in parser._actions:
            yield action.dest, action.help
        return
    for kind in dataclasses_in(parser):
        types = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.init and not any(dataclasses_in(types[field.name])):
                yield f"{kind.__name__}.{field.name}", field.metadata.get("help")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_every_option_has_help(name, monkeypatch):
    for parser in parsers(name, monkeypatch):
        give_help(parser)
        without = [option for option, text in helps(parser) if not text]
        assert without == []
        assert [option for option, text in helps(parser) if text and "\n" in text] == []


@dataclasses.dataclass
class Inner:
    """Of a part."""

    first: int = 1
    """One line that is longer than others, and goes
    on in a second (with a bracket
    (1) and a number), to its end."""


@dataclasses.dataclass
class Outer(Inner):
    part: Inner = dataclasses.field(default_factory=Inner)
    bare: int = 2


def test_a_text_is_one_paragraph_also_of_a_base_and_of_a_part(capsys):
    with pytest.raises(SystemExit):
        cli.parse_options(Outer, ["--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    text = "One line that is longer than others, and goes on in a second (with a bracket (1) and a number), to its end."
    assert words.count(text) == 2
    assert dict(helps(Outer))["Outer.bare"] is None
