"""The one error type that a user of the data plane is meant to read."""


class DataError(ValueError):
    """A store, video or data option that the user can mend: the message names it and the way out."""
