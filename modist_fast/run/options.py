"""The options of a run, nested by the parts that they belong to, in the shapes that files, logs and messages need."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from typeguard import TypeCheckError, check_type

from modist_fast.errors import ConfigError, did_you_mean
from modist_pipelines.ranges import outside

Options = TypeVar("Options")


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


def as_typed(options: Options, prefix: str = "") -> Options:
    """Options from Python as the command line would have made them: it refuses what is not of an option's type.

    Args:
        options: a dataclass of options, others nested in it.

    Returns:
        The same, with text as a Path where one is wanted.

    Raises:
        ConfigError: a value of another type, or none of those there are; the message has the option's name.
    """
    hints = get_type_hints(type(options), include_extras=True)
    names = [field.name for field in fields(options)]  # pyright: ignore[reportArgumentType]
    changes = {name: _typed(getattr(options, name), hints[name], prefix, name) for name in names}
    return replace(options, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _typed(value: Any, hint: Any, prefix: str, name: str) -> Any:
    """`value`, if `hint` allows it."""
    notes = ()
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
    if is_dataclass(value) and isinstance(hint, type) and isinstance(value, hint):
        unnamed = any(getattr(note, "name", None) == "" for note in notes)  # its options go without its name
        return as_typed(value, prefix if unnamed else f"{prefix}{name}.")
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    try:
        return check_type(value, hint)
    except TypeCheckError as error:
        option = f"--{prefix}{name}".replace("_", "-")
        choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if choices:
            near = did_you_mean(str(value), choices)
            raise ConfigError(f"{option} {value}: one of {', '.join(choices)}.{near}") from error
        wanted = " or ".join(getattr(kind, "__name__", str(kind)).removesuffix("Type") for kind in kinds)
        raise ConfigError(f"{option} {value!r}: {wanted} is wanted, not {type(value).__name__}.") from error


def from_plain(kind: type[Options], tree: Mapping[str, Any]) -> Options:
    """Options of what `plain` made of them; those that did not exist then have their defaults.

    Raises:
        TypeError, ConfigError: it has others, or values of another type.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(tree.keys() - known):
        raise TypeError(f"there is no option {unknown[0]}")
    values = {
        name: from_plain(hints[name], value)
        if isinstance(value, Mapping) and is_dataclass(hints[name])
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in tree.items()
    }
    return as_typed(kind(**values))


def check_ranges(options: Any) -> None:
    """Refuse numbers outside the range of their field; of a field without one, what is not finite.

    Args:
        options: a dataclass, others nested in it.

    Raises:
        ConfigError: naming the option, its value and its range, in a line.
    """
    if (wrong := outside(options)) is not None:
        raise ConfigError(wrong)
