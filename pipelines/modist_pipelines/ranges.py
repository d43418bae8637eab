"""The range of a number among the options, declared beside its field."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

KEY = "range"
"""Of a field's metadata."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; the ends belong to it unless said otherwise. Infinities belong to none."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it; a NaN does not."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        words = []
        if math.isfinite(self.low):
            words.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if math.isfinite(self.high):
            words.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return " and ".join(words) or "finite"


COUNT = Range(low=1)
"""Of what there must be some: steps, samples, channels."""
FROM_ZERO = Range(low=0)
"""Rates, seconds, and counts of which 0 means something."""
POSITIVE = Range(low=0, open_low=True)
FRAME_RATE = Range(0.1, 1000)
"""Frames a second of pictures."""
MOMENTUM = Range(low=0, high=1, open_high=True)
SHARE = Range(low=0, high=1)
PART = Range(low=0, high=1, open_low=True)
"""A share of which nothing is no choice."""
OPEN_SHARE = Range(low=0, high=1, open_low=True, open_high=True)
"""Of some, and not of all."""


def ranged(default: Any, within: Range) -> Any:
    """A field of a dataclass of options that holds numbers in a range; None, where it may be, is in it."""
    return field(default=default, metadata={KEY: within})


def required(within: Range) -> Any:
    """The same without a default."""
    return field(metadata={KEY: within})


def outside(options: Any, prefix: str = "") -> str | None:
    """The first number outside the range of its field, in a line: its option, value and range; None where none is.

    Args:
        options: a dataclass, others nested in it. In a field without a range, numbers that are not finite are outside.
        prefix: of the options' names.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for option in fields(options):
        value = getattr(options, option.name)
        if is_dataclass(value):
            if wrong := outside(value, prefix if _is_unnamed(hints[option.name]) else f"{prefix}{option.name}."):
                return wrong
            continue
        within = option.metadata.get(KEY, Range())
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool) and not within.holds(number):
                name = f"{prefix}{option.name}".replace("_", "-")
                return f"--{name} {number}: it must be {within}."
    return None


def _is_unnamed(hint: Any) -> bool:
    """Whether the options of a part go without its name, as tyro has it."""
    return get_origin(hint) is Annotated and any(getattr(note, "name", None) == "" for note in get_args(hint)[1:])
