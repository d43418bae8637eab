"""The options of a run, nested by the parts that they belong to, in the shapes that files, logs and messages need."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Nested options as JSON-ready values: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots, each with what it leads to."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def spelled(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options under the names they have on the command line, without the dashes in front."""
    return {name.replace("_", "-"): value for name, value in flat(tree)}
