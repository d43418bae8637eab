"""Which files of a folder are taken for videos."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from modist_pipelines.disk.names import as_text, file_path
from modist_pipelines.errors import DataError
from modist_pipelines.remote import access
from modist_pipelines.remote.urls import named, url_of
from modist_pipelines.video import archives
from modist_pipelines.video.frame_folders import frames_in, is_picture
from modist_pipelines.video.opener import grouped, status
from modist_pipelines.video.suffixes import MEDIA_SUFFIXES, OTHER_SUFFIXES, is_media, is_video_by_content

logger = logging.getLogger("modist")

_COMPRESSED = (
    "a compressed tar, in which no clip can be reached before all in front of it; unpack it to a .tar, with gunzip"
)
_SHOWN = 3  # names of a suffix that a message gives
_MOST_SUFFIXES = 20


def discover_videos(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Media files in a folder and its subfolders, following links; folders of frames, and what archives hold of both.
    Others are counted and named by their suffixes.

    Returns:
        Sorted names relative to the folder, as `names.as_text` has them; and quarantine rows of subfolders and archives
        that cannot be listed.

    Raises:
        DataError: not a folder, or nothing in it.
    """
    if (url := url_of(folder)) is not None:
        return _sorted_out(folder, folder, lambda unlisted: ((name, "remote") for name in access.listed(url)))
    if not folder.is_dir():
        state = "does not exist"
        if folder.exists():
            state = "is a video" if is_media(folder.name) else "is a file"
        raise DataError(f"VIDEOS {folder} {state}. Give the folder that holds the videos.")
    return _sorted_out(folder, folder, lambda unlisted: _walk(folder, unlisted))


def discover_in_archive(archive: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The same for what an archive holds; names are relative to its folder."""
    folder = archive.parent
    return _sorted_out(archive, folder, lambda unlisted: _members(archive.name, archive, unlisted))


def _sorted_out(
    place: Path, folder: Path, walk: Callable[[list[OSError]], Iterable[tuple[str, str]]]
) -> tuple[list[str], list[dict[str, str]]]:
    videos: list[str] = []
    unlisted: list[OSError] = []
    others: dict[str, list[str]] = defaultdict(list)
    num_frame_folders = 0
    for name, kind in walk(unlisted):
        suffix = os.path.splitext(name)[1].lower()
        is_video = kind == "frames" or suffix in MEDIA_SUFFIXES
        if not is_video and kind == "file" and suffix not in OTHER_SUFFIXES:
            is_video = is_video_by_content(file_path(folder, name))
        num_frame_folders += kind == "frames"
        (videos if is_video else others[suffix or "no suffix"]).append(name)
    if num_frame_folders:
        logger.info("%d folders of numbered pictures are taken for videos (--frames-fps)", num_frame_folders)
    rows = [_unlisted_row(folder, error) for error in unlisted]
    num_other = sum(map(len, others.values()))
    if not videos:
        raise DataError(
            f"VIDEOS {named(place)} holds no video: {num_other} other files"
            + (f" ({_named(others)})" if others else "")
            + ", and none that ends in .mp4, .avi, .mkv, .mov, .webm or the like, or begins as they do"
            + (f"; {len(rows)} subfolders or archives cannot be listed, such as {rows[0]['video']}." if rows else ".")
            + " Give the folder, archive or list of the videos."
        )
    if num_other:
        logger.info(
            "%d of the files are no media by their names, or by their first bytes where the name does not tell, and "
            "are left alone: %s",
            num_other,
            _named(others),
        )
    for row in rows:
        logger.warning("%s: %s; what is in it is left out", row["video"], row["detail"])
    return sorted(videos), rows


def all_files(folder: Path) -> Iterator[str]:
    """Names of all that may be a video in a folder and below it: files, folders of frames, members of archives."""
    return (name for name, _ in _walk(folder, []))


def folder_label(video: str, depth: int = 0) -> str | None:
    """The label of a video by its folders.

    Args:
        depth: which of the folders under VIDEOS, counted from 1; 0 takes the innermost.

    Returns:
        None where there is no such folder.
    """
    folders = [part for part in video.split("/")[:-1] if not part.lower().endswith(archives.SUFFIXES)]
    if not folders or depth > len(folders):
        return None
    return folders[depth - 1]


def say_labels(videos: list[str], depth: int) -> None:
    """Say which folders are taken for labels, and how many classes that makes."""
    labels = [folder_label(video, depth) for video in videos]
    num_without = labels.count(None)
    which = f"folder {depth} of their paths (--label-depth)" if depth else "their innermost folder"
    deepest = max(video.count("/") for video in videos)
    hint = ""
    if not depth and deepest > 1:
        counts = ", ".join(
            f"{at}: {len({folder_label(video, at) for video in videos} - {None})} classes"
            for at in range(1, min(deepest, 4) + 1)
        )
        hint = f"; folders are nested, --label-depth takes another ({counts})"
    logger.info(
        "%d videos; labels are %s: %d classes, %d videos without one%s",
        len(videos),
        which,
        len(set(labels) - {None}),
        num_without,
        hint,
    )


def file_size(path: Path) -> int:
    """Bytes; 0 for a link to nothing, which the decoder will report."""
    try:
        return status(path).num_bytes
    except OSError:
        return 0


def _walk(folder: Path, unlisted: list[OSError]) -> Iterator[tuple[str, Literal["file", "frames", "member"]]]:
    """Names and kinds of what is in a folder: files, folders of frames in place of their pictures, members of archives
    beside the archives."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unlisted.append):
        try:
            identity = os.stat(parent)
        except OSError as error:  # it has gone meanwhile
            unlisted.append(error)
            continue
        if (identity.st_dev, identity.st_ino) in seen:  # a link back to a parent
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        here = as_text(Path(parent).relative_to(folder).as_posix())
        if here != "." and frames_in(files) and not any(is_media(file) for file in files):
            yield here, "frames"
            files = [file for file in files if not is_picture(file)]
        for file in files:
            name = as_text(file) if here == "." else f"{here}/{as_text(file)}"
            yield name, "file"
            if name.lower().endswith(archives.COMPRESSED):
                unlisted.append(OSError(0, _COMPRESSED, os.path.join(parent, file)))
            if name.lower().endswith(archives.SUFFIXES):
                yield from _members(name, Path(parent, file), unlisted)


def _members(name: str, path: Path, unlisted: list[OSError]) -> Iterator[tuple[str, Literal["frames", "member"]]]:
    try:
        frames, rest = grouped(list(archives.members(path)))
    except OSError as error:
        unlisted.append(OSError(error.errno or 0, error.strerror or str(error), str(path)))
        return
    for inside in frames:
        yield f"{name}/{inside}", "frames"
    for inside in rest:
        yield f"{name}/{inside}", "member"


def _unlisted_row(folder: Path, error: OSError) -> dict[str, str]:
    path = Path(os.fsdecode(error.filename or folder))
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    detail = f"it cannot be listed ({error.strerror})"
    return {"video": f"{as_text(name)}/", "reason": "unlisted", "detail": detail}


def _named(others: dict[str, list[str]]) -> str:
    """Suffixes with their numbers, the most frequent first, and names."""
    ordered = sorted(others.items(), key=lambda item: -len(item[1]))
    shown = [
        f"{len(names)} {suffix} ({', '.join(sorted(names)[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for suffix, names in ordered[:_MOST_SUFFIXES]
    ]
    return "; ".join(shown) + ("; ..." if len(ordered) > _MOST_SUFFIXES else "")
