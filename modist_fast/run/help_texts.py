"""The help of options: the text under each field, as one paragraph."""

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import docstring_parser


def give_help(kind: Any) -> None:
    """Put the text under each field of the dataclasses in `kind` where tyro looks for it first.

    By itself tyro would keep the breaks of the source's lines, amid the lines of a terminal that breaks elsewhere.

    Args:
        kind: a dataclass, or a union of some.
    """
    for each in dataclasses_in(kind):
        texts = field_texts(each)
        for field in dataclasses.fields(each):
            if field.name in texts:
                field.metadata = types.MappingProxyType({**field.metadata, "help": texts[field.name]})


def dataclasses_in(kind: Any) -> Iterator[type]:
    """The dataclasses that `kind` names, and those of their fields, each once."""
    seen: set[type] = set()
    left = [kind]
    while left:
        one = left.pop()
        left += get_args(one)
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one not in seen:
            seen.add(one)
            left += get_type_hints(one, include_extras=True).values()
            yield one


def field_texts(kind: type) -> dict[str, str]:
    """By name of the field; those of a base are its own."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found = docstring_parser.parse_from_object(base).params
            texts |= {each.arg_name: " ".join(each.description.split()) for each in found if each.description}
    return texts
