"""What this package raises when its input is at fault."""


class DataError(ValueError):
    """Bad input: what is wrong with it, where, and what to do, in one paragraph."""


class DamagedError(DataError):
    """Frames of one video cannot be had. It costs that video, nothing else."""
