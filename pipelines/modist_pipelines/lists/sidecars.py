"""Labels that lie beside the clips of an archive, as WebDataset keeps them: 000.mp4, 000.cls, 000.json, 000.txt."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modist_pipelines.disk.names import file_path
from modist_pipelines.lists.entry import LABEL_NAMES, plain_name
from modist_pipelines.video import archives
from modist_pipelines.video.archives import Member
from modist_pipelines.video.discovery import folder_label, say_labels

log = logging.getLogger("modist")

_SUFFIXES = (".cls", ".json", ".txt")  # the first that has a label counts
_MOST_BYTES = 1 << 20  # of a label
_SHOWN = 3


def labels_of_videos(root: Path, videos: Sequence[str], depth: int) -> dict[str, str | None]:
    """The labels of videos that no list labels, and a line about them.

    Args:
        videos: names relative to `root`.
        depth: which of their folders is the label, counted from 1; 0 takes what lies beside a clip in its archive, else
            the innermost folder.
    """
    beside = {} if depth else _beside(root, videos)
    if beside:
        log.info(
            "%d of %d videos have labels beside them in their archives (%s): %d classes",
            len(beside),
            len(videos),
            ", ".join(_SUFFIXES),
            len(set(beside.values())),
        )
    rest = [video for video in videos if video not in beside]
    if rest:
        say_labels(rest, depth)
    return {video: beside.get(video, folder_label(video, depth)) for video in videos}


def _beside(root: Path, videos: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    problems: list[str] = []
    for video in videos:
        place = archives.split(file_path(root, video)) if _may_be_member(video) else None
        if place is None:
            continue
        archive, inside = place
        members = archives.members(archive)
        folder, _, base = inside.rpartition("/")
        stem = f"{folder}/" * bool(folder) + base.partition(".")[0]  # WebDataset's key ends at the first dot
        for suffix in _SUFFIXES:
            if (member := members.get(stem + suffix)) is None:
                continue
            try:
                label = _label(archive, member, suffix)
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"{archive.name}/{member.name} ({error})")
                continue
            if label:
                found[video] = label
                break
    if problems:
        log.warning(
            "%d files beside clips hold no label that can be read, such as %s",
            len(problems),
            "; ".join(problems[:_SHOWN]),
        )
    return found


def _may_be_member(video: str) -> bool:
    return any(part.lower().endswith(archives.SUFFIXES) for part in video.split("/")[:-1])


def _label(archive: Path, member: Member, suffix: str) -> str | None:
    """
    Raises:
        OSError, ValueError: it cannot be read.
    """
    if member.num_bytes > _MOST_BYTES:
        raise ValueError(f"{member.num_bytes} bytes")
    with archives.open_member(archive, member) as file:
        text = file.read().decode("utf-8-sig").strip()
    return text if suffix != ".json" else _of_json(json.loads(text))


def _of_json(row: Any) -> str | None:
    """A number or text, or what an object has under the likeliest name of a label."""
    if isinstance(row, Mapping):
        plain = {plain_name(key): value for key, value in row.items()}
        row = next((plain[name] for name in LABEL_NAMES if plain.get(name) not in (None, "")), None)
    return str(row) if isinstance(row, str | int | float) and not isinstance(row, bool) and row == row else None
