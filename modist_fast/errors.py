"""The one error type that a user of the trainer is meant to read."""


class ConfigError(ValueError):
    """An option, file or state that the user can mend: the message names it and the way out."""
