"""Which files of a folder are taken for videos."""

import logging
import os
from pathlib import Path

from modist_pipelines.errors import DataError

logger = logging.getLogger("modist")

# Sound and picture files too: what has no video in it shall be counted, not passed over.
MEDIA_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv"),
        *(".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
        *(".aac", ".flac", ".m4a", ".mp3", ".ogg", ".wav"),
    )
)


def discover_videos(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Media files in a folder and its subfolders, following links.

    Returns:
        Sorted paths relative to the folder; and quarantine rows of those whose names are not text.

    Raises:
        DataError: not a folder, or nothing in it.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"VIDEOS {folder} {state}. Give the folder that holds the videos.")
    videos, misnamed, num_other = [], [], 0
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:  # a link back to a parent
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for file in files:
            path = Path(parent, file).relative_to(folder).as_posix()
            if Path(file).suffix.lower() not in MEDIA_SUFFIXES:
                num_other += 1
            elif _is_text(path):
                videos.append(path)
            else:
                name = path.encode("utf-8", "backslashreplace").decode()
                detail = "the name is not UTF-8, so the index cannot hold it"
                misnamed.append({"video": name, "reason": "unreadable", "detail": detail})
    if not videos:
        raise DataError(
            f"VIDEOS {folder} holds no video: {num_other} other files, and none that ends in .mp4, .avi, "
            ".mkv, .mov, .webm or the like"
            + (f", but for {len(misnamed)} whose names are not UTF-8: rename them." if misnamed else ".")
        )
    if num_other:
        logger.info("%d files are not media files by their names and are left alone", num_other)
    return sorted(videos), misnamed


def file_size(path: Path) -> int:
    """Bytes; 0 for a link to nothing, which the decoder will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
