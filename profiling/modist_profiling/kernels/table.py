"""Measured launch configurations: as a file, and as an edit of kernels/modist_kernels/configurations.py.

The table is edited as text, value by value, so that its comments and all other entries stay as they are.
"""

import ast
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from modist_fast.errors import ConfigError
from modist_kernels.configurations import PARTIAL, PartialConfiguration


@dataclass
class MeasuredEntry:
    """The fastest configuration of queue_infonce for a number of query rows. Times: median, cold cache."""

    dim: int
    entry: PartialConfiguration
    microseconds: float
    shipped_microseconds: float
    """Of the entry that the table had."""


@dataclass
class MeasuredTable:
    """What tune_kernels.py found on one GPU."""

    architecture: int
    measured_on: str
    """GPU and versions, for `TIMED`."""
    partial: list[MeasuredEntry] = field(default_factory=list)
    edges_programs: int | None = None
    edges_microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Frames of a call to number of programs to time."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_table(path: Path) -> MeasuredTable:
    """The table in a file that `MeasuredTable.write` wrote.

    Raises:
        ConfigError: there is no such table.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [MeasuredEntry(**one | {"entry": PartialConfiguration(**one["entry"])}) for one in content["partial"]]
        return MeasuredTable(**content | {"partial": entries})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--entries {path}: no table of tune_kernels.py ({error}). Pass a file that `--json FILE` wrote."
        ) from error


def rewritten(source: str, table: MeasuredTable) -> str:
    """The text of configurations.py with the measured values in it, in the formatter's own layout.

    Args:
        source: the text as it is.
        table: entries of an (architecture, C) replace those for the same number of rows; the others stay.

    Raises:
        ConfigError: the text has no place for an entry.
    """
    values = _assigned(source)
    arch = table.architecture
    edits: list[tuple[ast.expr, str]] = []
    names: list[str] = []
    for dim in dict.fromkeys(one.dim for one in table.partial):
        by_rows = {entry.block_rows: entry for entry in PARTIAL.get((arch, dim), [])}
        by_rows |= {one.entry.block_rows: one.entry for one in table.partial if one.dim == dim}
        edits.append((_value_of(values["PARTIAL"], (arch, dim)), _entries([by_rows[rows] for rows in sorted(by_rows)])))
        names.append(f"C {dim}")
    if table.edges_programs:
        edits.append((_value_of(values["EDGES_PROGRAMS"], arch), str(table.edges_programs)))
        names.append("edges")
    timed = ast.literal_eval(values["TIMED"]) | {(arch, name): table.measured_on for name in names}
    if timed:
        lines = [f'    ({key[0]}, "{key[1]}"): {json.dumps(timed[key])},\n' for key in sorted(timed)]
        edits.append((values["TIMED"], "{\n" + "".join(lines) + "}"))
    return _replaced(source, edits)


def _assigned(source: str) -> dict[str, ast.expr]:
    """The value of each name of the module."""
    values = {}
    for node in ast.parse(source).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign):
            (target,) = node.targets
        if isinstance(target, ast.Name) and isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            values[target.id] = node.value
    return values


def _entries(entries: Sequence[PartialConfiguration]) -> str:
    def numbers(entry: PartialConfiguration) -> str:
        return ", ".join(str(value) for value in asdict(entry).values())

    return "[\n" + "".join(f"        PartialConfiguration({numbers(entry)}),\n" for entry in entries) + "    ]"


def _value_of(table: ast.expr, key: object) -> ast.expr:
    assert isinstance(table, ast.Dict)
    for found, value in zip(table.keys, table.values, strict=True):
        if found is not None and ast.literal_eval(found) == key:
            return value
    raise ConfigError(f"configurations.py has no entry for {key}: add the chip to ARCHITECTURES and its tables first.")


def _replaced(source: str, edits: Sequence[tuple[ast.expr, str]]) -> str:
    lines = source.encode().splitlines(keepends=True)  # ast counts bytes
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    text = source.encode()
    for node, new in sorted(edits, key=lambda edit: edit[0].lineno, reverse=True):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        text = text[:begin] + new.encode() + text[end:]
    return text.decode()
