"""One colour an arm, the same in all pictures of all tables."""

from collections.abc import Sequence

_FIXED = {
    "random": "0.55",
    "rgb-only": "tab:blue",
    "rgb-only-time": "tab:cyan",
    "edges": "tab:red",  # as `edges-other`, which it is where a table has one kind of negatives alone
    "edges-other": "tab:red",
    "edges-own": "tab:green",
}
_OTHERS = ("tab:orange", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "black", "gold", "navy", "teal")


def arm_colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each arm of a table, named as matplotlib does; those without one of their own in their order."""
    rest = iter(_OTHERS * len(names))
    return {name: _FIXED.get(name) or next(rest) for name in names}
