"""What a line of a list comes to, and the names by which lists call things."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modist_pipelines.video.suffixes import MEDIA_SUFFIXES

ListFormat = Literal["auto", "csv", "json", "ucf101", "hmdb51", "kinetics", "ssv2", "webvid"]

# The likeliest first. "name" is a caption in some lists, and ids are no paths where there are paths.
PATH_NAMES = (
    *("path", "file_path", "filepath", "video_path", "videopath", "clip_path", "rel_path", "relative_path"),
    *("file_name", "filename", "file", "fname", "video_file", "video_name", "vid_name", "video", "videos", "clip"),
    *("clip_name", "media", "clip_id", "video_id", "videoid", "vid", "youtube_id", "yt_id", "name", "id", "uid"),
)
LABEL_NAMES = (
    *("label", "class", "category", "label_name", "class_name", "action", "action_label", "action_name", "activity"),
    *("gesture", "verb", "target", "caption", "text", "sentence", "description", "title", "label_id", "class_id"),
    *("action_id", "labels", "classes", "tags", "template", "name", "y"),
)
SPLIT_NAMES = ("split", "subset", "partition", "set")
SPLITS = frozenset(("train", "training", "val", "valid", "validate", "validation", "test", "testing"))

_SUFFIXES = "|".join(sorted((re.escape(suffix[1:]) for suffix in MEDIA_SUFFIXES), key=len, reverse=True))
MEDIA_NAME = re.compile(rf"\.(?:{_SUFFIXES})$", re.IGNORECASE)
"""Finds the suffix of a media file at the end of a name."""


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    candidates: tuple[str, ...]
    """Paths under the root that the video may have, the likeliest first."""
    label: str | None
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the line says: a CSV's other columns, "split" where the format has one, "group" of UCF101's names."""
    line: int = 0
    """Of the list, from 1."""


def plain_name(cell: str) -> str:
    """The name of a column as `PATH_NAMES` and its like have it."""
    return re.sub(r"[\s\-]+", "_", cell.strip().lower())


def is_whole_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", cell.strip()) is not None


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell.strip()) is not None
