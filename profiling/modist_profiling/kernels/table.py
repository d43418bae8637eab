"""Measured launch configurations: a file of the form of configurations.json, with how long each entry took."""

import json
from pathlib import Path
from typing import Any

from modist_fast.errors import ConfigError
from modist_kernels.configurations import ARCHITECTURES

Table = dict[str, list[dict[str, Any]]]
"""Entries by "queue_infonce" and "flow_edges", as in kernels/modist_kernels/configurations.json. Of measured ones also
`microseconds` (median, cold cache; of flow_edges by frames of a call and number of programs) and
`shipped_microseconds`, of the entry that the table had."""

_KEYS = {"queue_infonce": ("architecture", "dim", "block_rows", "triton"), "flow_edges": ("architecture",)}


def read_table(path: Path) -> Table:
    """The table in a file that `write_table` wrote.

    Raises:
        ConfigError: there is no such table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {name: sorted(table[name], key=lambda one: [one[key] for key in keys]) for name, keys in _KEYS.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--entries {path}: no table of tune_kernels.py ({error}). Pass a file that `--json FILE` wrote."
        ) from error


def write_table(path: Path, table: Table) -> None:
    """An entry a line, so that a diff shows what changed."""
    lists = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, table[name])) + "\n ]" for name in _KEYS]
    path.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")


def taken_over(table: Table, measured: Table) -> Table:
    """`table` with the measured entries in place of those of the same tile and Triton; the others stay.

    Raises:
        ConfigError: the kernels know no such chip.
    """
    found = {}
    for name, keys in _KEYS.items():
        for entry in measured[name]:
            if entry["architecture"] not in ARCHITECTURES:
                raise ConfigError(
                    f"An entry is of sm_{entry['architecture']}; the kernels know only {ARCHITECTURES}. "
                    "Take that entry out."
                )
        entries = {tuple(entry[key] for key in keys): entry for entry in [*table[name], *measured[name]]}
        found[name] = [entries[key] for key in sorted(entries)]
    return found
