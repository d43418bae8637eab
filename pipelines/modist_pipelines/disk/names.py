"""Names of files as text, and back.

A store keeps names as UTF-8. A name of other bytes, which a file system may well have, is written with each of them as
"\\xNN", and found again by that.
"""

import os
import re
from pathlib import Path

from modist_pipelines.remote.urls import url_of

_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")


def as_text(path: str) -> str:
    """A path as Python has it, as text that can be stored and printed."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path


def file_path(root: Path, name: str) -> Path:
    """The path of a file by the text of its name."""
    if url_of(name) is not None:  # of a list with videos on several servers
        return Path(name)
    path = root / name
    if _ESCAPED.search(name) is None or os.path.lexists(path):
        return path
    # Byte for byte: what is UTF-8 stays, each escape becomes the byte that it stands for.
    pieces = _ESCAPED.split(name)
    data = b"".join(bytes([int(piece, 16)]) if i % 2 else os.fsencode(piece) for i, piece in enumerate(pieces))
    return root / os.fsdecode(data)
