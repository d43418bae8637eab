"""Videos kept as folders of numbered pictures: img_00001.jpg, frame_000001.png, VIDEO-000001.jpg, 000001.jpg."""

import re
from collections import defaultdict
from collections.abc import Iterable

_PICTURE = re.compile(r"(.*?)(\d+)\.(jpe?g|png|bmp|webp)$", re.IGNORECASE)
# Flow and depth that lie beside the frames in the folders of TSN and its like.
_NO_FRAMES = re.compile(r"(^|_)(flow|flow_?[xyuv]|[xyuv]|depth|mask|seg)[_-]?$", re.IGNORECASE)
_FEWEST = 5
_JPEG_END = b"\xff\xd9"
PIPES = {"jpg": "jpeg_pipe", "jpeg": "jpeg_pipe", "png": "png_pipe", "bmp": "bmp_pipe", "webp": "webp_pipe"}
"""Suffix to FFmpeg's name for a row of such pictures."""


def frames_in(names: Iterable[str]) -> list[str]:
    """The pictures of a folder that are the frames of a video, in the order of their numbers.

    They are of one prefix and one suffix; of several such rows the longest. Flow (x_, y_, flow_x_) is none of them.

    Returns:
        None of them, where fewer than five are numbered in a row.
    """
    rows: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        if (match := _PICTURE.fullmatch(name)) and not _NO_FRAMES.search(match[1]):
            rows[match[1], match[3].lower()].append((int(match[2]), name))
    if not rows:
        return []
    row = sorted(max(rows.values(), key=len))
    span = row[-1][0] - row[0][0] + 1
    # Numbers far apart are those of photographs.
    return [name for _, name in row] if len(row) >= _FEWEST and 2 * len(row) > span else []


def is_picture(name: str) -> bool:
    """Whether a file is a numbered picture, of frames or of flow."""
    return _PICTURE.fullmatch(name) is not None


def pipe_of(name: str) -> str:
    """FFmpeg's name of the format of pictures such as this."""
    return PIPES[name.rpartition(".")[2].lower()]


def in_a_row(data: bytes, pipe: str) -> bytes:
    """A picture as it can stand among others in a row: nothing of one that is broken off, whose rest FFmpeg would look
    for in the pictures behind it."""
    if pipe == "jpeg_pipe":
        return data + (b"" if data.rstrip(b"\0").endswith(_JPEG_END) else _JPEG_END) if _has_scan(data) else b""
    whole = {
        "png_pipe": data.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in data[-16:],
        "bmp_pipe": data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data),
        "webp_pipe": data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 <= len(data),
    }
    return data if whole[pipe] else b""


def _has_scan(data: bytes) -> bool:
    """Whether a JPEG's head is whole: its segments lead to the start of a scan."""
    at = 2
    while data.startswith(b"\xff\xd8") and at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return True
        # A marker may be preceded by fill bytes.
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
