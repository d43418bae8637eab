"""All numbers of all commands have a range; what cannot be an --out is refused; and no message breaks a path."""

import dataclasses
import importlib
import inspect
import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from modist_fast.__main__ import COMMANDS
from modist_fast.commands import convert, evaluate, features, make_demo_videos, predict, prepare
from modist_fast.commands.cli import parse_options
from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_pipelines.ranges import KEY
from tests.commands.launching import REPOSITORY, run_command

# Commands of argparse, whose numbers are checked by hand or are none.
BY_HAND = {"report", "doctor", "soak", "model-throughput", "nsys-budget"}


def options_of(name: str) -> list[type]:
    """The classes that a command's module gives to parse_options."""
    module = importlib.import_module(COMMANDS[name][0])
    source = inspect.getsource(module)
    named = re.findall(r"parse_options\(\s*(\w+)", source)
    if name == "evaluate":
        named = re.findall(r"Annotated\[(\w+), tyro.conf.subcommand", source)
    return [getattr(module, word) for word in named]


def kinds(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType, tuple, list):
        for part in get_args(hint):
            yield from kinds(part)
    else:
        yield hint


def walk(kind: type) -> Iterator[tuple[type, dataclasses.Field]]:
    """Each field with numbers, nested ones too."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        found = list(kinds(hints[field.name]))
        for part in found:
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from walk(part)
        if int in found or float in found:
            yield kind, field


FOUND = {name: [field for kind in options_of(name) for field in walk(kind)] for name in COMMANDS if name not in BY_HAND}


def test_the_walk_sees_the_commands() -> None:
    assert FOUND.keys() | BY_HAND == COMMANDS.keys()
    assert len(options_of("evaluate")) == 7
    assert {kind for kind, _ in FOUND["pretrain"]} >= {TrainConfig}
    without_numbers = {name for name, fields in FOUND.items() if not fields}
    assert without_numbers == {"convert"}, "the reader of sources is blind"
    assert len({(kind, field.name) for fields in FOUND.values() for kind, field in fields}) > 150


@pytest.mark.parametrize("name", FOUND)
def test_every_number_has_a_range_that_its_default_is_in(name: str) -> None:
    bare = [f"{kind.__name__}.{field.name}" for kind, field in FOUND[name] if KEY not in field.metadata]
    assert not bare, "declare it: ranged(default, RANGE)"
    for kind, field in FOUND[name]:
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        numbers = [number for number in default if isinstance(number, int | float)]
        assert all(field.metadata[KEY].holds(number) for number in numbers), (kind, field.name)
        assert not field.metadata[KEY].holds(math.nan)


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (prepare, "V --out S --fps nan", "--fps nan: it must be at least 1 and at most 1000."),
        (make_demo_videos, "D --num-videos 0", "--num-videos 0: it must be at least 1."),
        (features, "V --backbone B --out F.parquet --every 0", "--every 0.0: it must be above 0."),
        (predict, "V --classifier C --out F.csv --top 0", "--top 0: it must be at least 1."),
    ],
)
def test_commands_say_it_in_a_line_before_anything_else(
    parse: Any, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["modist", *words.split()])
    with pytest.raises(ConfigError) as caught:
        parse.main()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("linear --views.temporal 0", "--views.temporal 0"),
        ("linear --sgd.momentum 1", "--sgd.momentum 1.0: it must be at least 0 and below 1."),
        ("knn --knn.temperature 0", "--knn.temperature 0.0"),
        ("retrieval --ks 1 0", "--ks 0"),
        ("lowshot --shares 0.1 0", "--shares 0.0: it must be above 0 and at most 1."),
        ("finetune --optim.lr inf", "--optim.lr inf"),
        ("finetune --augmentation.flip 2", "--augmentation.flip 2.0"),
        ("finetune --width 0", "--width 0"),  # a part whose options go without its name
        ("ava --num-actions 0", "--num-actions 0"),
    ],
)
def test_evaluations_say_it_by_the_name_that_was_typed(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate.parse([*words.split(), "--backbone", "B", "--out", "OUT"])
    assert str(caught.value).startswith(message)


@pytest.mark.fault
def test_out_is_looked_at_by_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for words, message in (
        (["--out", str(tmp_path / "file")], r"is a file. Choose a folder"),
        (["--out", str(tmp_path / "file" / "inner")], r"cannot be made: .*file is a file"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate.parse(["knn", "--backbone", "B", *words])
    with pytest.raises(ConfigError, match=r"is a folder\. Name a file"):
        parse_options(features.PlainVideosConfig, ["V", "--backbone", "B", "--out", str(tmp_path / "folder")])
    assert parse_options(convert.ConvertConfig, ["IN", str(tmp_path / "file")]).out.is_file()


def test_a_folder_that_takes_no_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs this may be root
    with pytest.raises(ConfigError, match=rf"--out {tmp_path}/a/b cannot be made: {tmp_path} may not be written"):
        evaluate.parse(["knn", "--backbone", "B", "--out", str(tmp_path / "a" / "b")])


LONG = "/a folder/with some-long/" + "/".join(["name of a part-of it"] * 12) + "/store"


@pytest.mark.slow
def test_an_error_keeps_a_path_whole() -> None:
    done = run_command("store", "info", LONG)
    assert done.returncode == 2
    assert LONG in done.stderr


def test_a_terminal_gets_lines_that_it_folds_itself() -> None:
    """Of a log, and above a bar."""
    code = (
        "import logging\n"
        "from modist_fast.commands import cli\n"
        "from modist_fast.watch.metrics import Display\n"
        "logging.basicConfig(level=20, format='%(message)s', handlers=[cli._handler()])\n"
        f"logging.warning({LONG!r})\n"
        "with Display(3, 0, True) as display:\n"
        f"    logging.warning('above ' + {LONG!r})\n"
    )
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=side, stdout=side, stderr=side, close_fds=True
    )
    os.close(side)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
    except OSError:  # the other end was closed
        pass
    assert process.wait() == 0, shown
    os.close(main)
    assert re.search(rf"\d\d:\d\d:\d\d {LONG}".encode(), shown)
    assert f"above {LONG}".encode() in shown


def test_numbers_of_argparse_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from modist_profiling import soak
    from modist_profiling.scaling import throughput

    for module, words, message in (
        (soak, "--store S --out O --interval 0", "--interval 0.0: it must be above 0."),
        (soak, "--store S --out O --processes 0", "--processes 0: it must be at least 1."),
        (throughput, "--pcie-share nan", "--pcie-share nan"),
    ):
        monkeypatch.setattr(sys, "argv", ["modist", *words.split()])
        with pytest.raises(ConfigError) as caught:
            module.main()
        assert str(caught.value).startswith(message)
