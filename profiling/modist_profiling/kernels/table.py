"""Measured launch configurations: as a file, and taken over into kernels/modist_kernels/configurations.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modist_fast.errors import ConfigError
from modist_kernels.configurations import ARCHITECTURES, PartialConfiguration


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
    """GPU and versions."""
    triton: str
    """Major and minor version: the entries hold from there on."""
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


def taken_over(content: Mapping[str, list[dict[str, Any]]], table: MeasuredTable) -> dict[str, list[dict[str, Any]]]:
    """The content of configurations.json with the measured entries in place of those of the same tile and Triton.

    Raises:
        ConfigError: it knows no such chip.
    """
    if table.architecture not in ARCHITECTURES:
        raise ConfigError(f"The table is of sm_{table.architecture}, and the kernels know only {ARCHITECTURES}.")
    key = {"architecture": table.architecture}
    timed = {"timed": table.measured_on}
    tiles = [key | {"dim": one.dim, "triton": table.triton} | asdict(one.entry) | timed for one in table.partial]
    edges = [key | {"num_programs": table.edges_programs} | timed] if table.edges_programs else []
    return {
        "queue_infonce": _replaced(content["queue_infonce"], tiles, ("architecture", "dim", "block_rows", "triton")),
        "flow_edges": _replaced(content["flow_edges"], edges, ("architecture",)),
    }


def _replaced(old: list[dict[str, Any]], new: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = {tuple(entry[key] for key in keys): entry for entry in [*old, *new]}
    return [entries[key] for key in sorted(entries)]


def write_configurations(table: MeasuredTable, path: Path) -> None:
    """Take `table` over into configurations.json at `path`: an entry a line, so that a diff shows what changed."""
    content = taken_over(json.loads(path.read_text(encoding="utf-8")), table)
    lists = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in content.items()]
    path.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")
