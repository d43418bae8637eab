"""The one error type that a user of the trainer is meant to read, and the guess at what was meant."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An option, file or state that the user can mend: the message names it and the way out."""


class DivergedError(ConfigError):
    """Training came to numbers that are not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of the words that exist, as a sentence to append; "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
