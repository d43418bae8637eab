"""What a preparation is asked for: the videos of a folder or of a list, their labels, and what is not to be had."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from modist_pipelines.errors import DataError
from modist_pipelines.lists.entry import ListFormat
from modist_pipelines.lists.listing import read_listing
from modist_pipelines.video import archives
from modist_pipelines.video.discovery import discover_in_archive, discover_videos, folder_label, say_labels
from modist_pipelines.video.suffixes import is_video_by_content

logger = logging.getLogger("modist")


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
    if list_format == "auto" and videos.is_file() and videos.suffix.lower() in archives.SUFFIXES:
        names, unusable = discover_in_archive(videos)
        say_labels(names, label_depth)
        return Inputs(videos.parent, names, {name: folder_label(name, label_depth) for name in names}, unusable)
    if list_format == "auto" and videos.is_file() and is_video_by_content(videos):
        raise DataError(f"VIDEOS {videos} is a video: give the folder that holds the videos, or a list of them.")
    is_list = list_format != "auto" or videos.is_file()
    if is_list or (videos.is_dir() and next(videos.glob("*_test_split*.txt"), None) is not None):
        listing = read_listing(videos, root, list_format)
        labels = listing.labels
        if not any(labels.values()):
            logger.info("%s gives no labels: the folders of the videos are taken", videos)
            say_labels(listing.videos, label_depth)
            labels = {name: folder_label(name, label_depth) for name in listing.videos}
        return Inputs(listing.root, listing.videos, labels, listing.absent)
    names, unusable = discover_videos(videos)
    say_labels(names, label_depth)
    labels = {name: folder_label(name, label_depth) for name in names} if label_depth else None
    return Inputs(videos, names, labels, unusable)
