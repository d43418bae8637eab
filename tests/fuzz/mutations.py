"""Damage to files: of their bytes, of the values in JSON, and of the columns of a table; all drawn from a seed."""

import json
import random
from typing import Any

import pyarrow as pa

EXTREMES: list[Any] = [
    *(None, True, -1, 0, 2**31 - 1, 2**63, 10**30, 1e308, float("nan"), "", "x", "../../outside", "/etc/passwd"),
    *("\x00", "<script>", [], {}, [[]], {"a": 1}, "x" * 100_000),
]
_NUMBERS = [b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00\x00\x00\x00\x00"]


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four of: a flipped bit, a number that is an extreme, a part cut out, doubled, moved or blanked."""
    whole = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(max(1, len(whole)))
        # Formats keep what they say of themselves at their ends.
        if draw.random() < 0.5:
            place = (
                min(place, draw.randrange(512)) if draw.random() < 0.5 else max(0, len(whole) - draw.randint(1, 512))
            )
        size = draw.choice([1, 8, 64, 1024])
        kind = draw.randrange(7)
        if kind == 0 and whole:
            whole[min(place, len(whole) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            number = draw.choice(_NUMBERS)
            whole[place : place + len(number)] = number
        elif kind == 2:
            del whole[place:]
        elif kind == 3:
            del whole[place : place + size]
        elif kind == 4:
            whole[place:place] = whole[place : place + size]
        elif kind == 5:
            whole[place : place + size] = bytes(len(whole[place : place + size]))
        else:
            whole[place:place] = draw.randbytes(size)
    return bytes(whole)


def damaged_json(text: str, draw: random.Random) -> str:
    """A value replaced or taken away somewhere in it, or a document of another kind altogether."""
    if draw.random() < 0.05:
        return draw.choice(["", "[", "null", "[" * 100_000, '{"a":' * 50_000, "NaN", '"x"', "1" * 10_000])
    value = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        value = _damaged_value(value, draw)
    return json.dumps(value)


def _damaged_value(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else dict(enumerate(value))
        key = draw.choice(list(copy))
        if draw.random() < 0.2:
            del copy[key]
        else:
            copy[key] = _damaged_value(copy[key], draw)
        return copy if isinstance(value, dict) else list(copy.values())
    return draw.choice(EXTREMES)


def damaged_table(table: pa.Table, draw: random.Random) -> pa.Table:
    """A cell replaced, a column taken away, of another type or doubled, or rows doubled."""
    name = draw.choice(table.column_names)
    place = table.column_names.index(name)
    column = table[name].to_pylist()
    row = draw.randrange(len(column))
    kind = draw.randrange(8)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.set_column(place, name, pa.array(["x"] * len(column)))
    if kind == 2:
        return pa.concat_tables([table, table.slice(0, draw.randint(0, 3))])
    if kind == 3:
        return table.slice(0, 0)
    old = column[row]
    if isinstance(old, list) and old and kind < 7:
        new = list(old)
        new[draw.randrange(len(new))] = draw.choice([-1, 0, 2**31 - 1, 2**40, 2**62, None])
        if kind == 6:
            new = draw.choice([[], new + new, new[:-1]])
        column[row] = new
    elif isinstance(old, str):
        column[row] = draw.choice(["../../outside", "/etc/passwd", "", "\x00", "x" * 10_000, None])
    else:
        column[row] = draw.choice([-1, 0, 2**31 - 1, -(2**31), None])
    try:
        return table.set_column(place, name, pa.array(column, type=table.schema.field(name).type))
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return table.set_column(place, name, pa.array(["y"] * len(column)))
