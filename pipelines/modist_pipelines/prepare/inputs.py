"""What a preparation is asked for: the videos of a folder or of a list, their labels, and what is not to be had."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from modist_pipelines.errors import DataError
from modist_pipelines.lists.entry import ListFormat
from modist_pipelines.lists.listing import read_listing
from modist_pipelines.lists.sidecars import labels_of_videos
from modist_pipelines.remote.urls import local_of, url_of
from modist_pipelines.video import archives
from modist_pipelines.video.discovery import discover_in_archive, discover_videos, folder_label
from modist_pipelines.video.suffixes import is_video_by_content

logger = logging.getLogger("modist")
_LIST_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"))


class Inputs(NamedTuple):
    """The videos that a store is to be made of."""

    root: Path
    """What their names are relative to."""
    videos: list[str]
    """Sorted."""
    labels: Mapping[str, str | None] | None
    """By name; None takes the names of their innermost folders."""
    unusable: list[dict[str, str]]
    """Quarantine rows of what is asked for and not there, or cannot be listed."""


def find_inputs(videos: Path, root: Path | None, list_format: ListFormat, label_depth: int) -> Inputs:
    """
    Raises:
        DataError: no folder and no list, or nothing in it.
    """
    videos, root = local_of(videos), local_of(root) if root is not None else None
    is_remote_list = url_of(videos) is not None and videos.suffix.lower() in _LIST_SUFFIXES
    if list_format == "auto" and videos.is_file() and videos.suffix.lower() in archives.SUFFIXES:
        names, unusable = discover_in_archive(videos)
        return Inputs(videos.parent, names, labels_of_videos(videos.parent, names, label_depth), unusable)
    if list_format == "auto" and videos.is_file() and videos.name.lower().endswith(archives.COMPRESSED):
        raise DataError(
            f"VIDEOS {videos} is a compressed tar: to reach one clip of it, all before it would have to be unpacked, "
            "each time. Give the .tar that gunzip, bunzip2, unxz or unzstd make of it, whose clips are read in place."
        )
    if list_format == "auto" and videos.is_file() and is_video_by_content(videos):
        raise DataError(f"VIDEOS {videos} is a video: give the folder that holds the videos, or a list of them.")
    is_list = list_format != "auto" or videos.is_file() or is_remote_list
    if is_list or (videos.is_dir() and next(videos.glob("*_test_split*.txt"), None) is not None):
        listing = read_listing(videos, root, list_format)
        labels = listing.labels
        if not any(labels.values()):
            logger.info("%s gives no labels: the folders of the videos are taken, or what lies beside them", videos)
            labels = labels_of_videos(listing.root, listing.videos, label_depth)
        return Inputs(listing.root, listing.videos, labels, listing.absent)
    names, unusable = discover_videos(videos)
    labels = labels_of_videos(videos, names, label_depth)
    is_usual = not label_depth and labels == {name: folder_label(name) for name in names}
    return Inputs(videos, names, None if is_usual else labels, unusable)
