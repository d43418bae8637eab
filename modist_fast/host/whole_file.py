"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Around the writing of a file. It may be lost in a power cut; checkpoints, which may not, have a way of their own.

    Yields:
        The path to write to, beside `path`, whose name it takes at the end.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.half")  # another process may write the same file
    try:
        yield half
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    os.replace(half, path)
