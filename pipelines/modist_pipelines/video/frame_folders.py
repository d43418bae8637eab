"""Videos kept as folders of numbered pictures: img_00001.jpg, frame_000001.png, VIDEO-000001.jpg, 000001.jpg."""

import re
from collections import defaultdict
from collections.abc import Iterable

_PICTURE = re.compile(r"(.*?)(\d+)\.(jpe?g|png|bmp|webp)$", re.IGNORECASE)
# Flow and depth that lie beside the frames in the folders of TSN and its like.
_NO_FRAMES = re.compile(r"(^|_)(flow|flow_?[xyuv]|[xyuv]|depth|mask|seg)[_-]?$", re.IGNORECASE)
_FEWEST = 5
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
