"""Lists of videos, in the dialects of the field: what they say, and which of their videos are there."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modist_pipelines.errors import DataError
from modist_pipelines.lists.encoding import read_text
from modist_pipelines.lists.entry import Entry, ListFormat
from modist_pipelines.lists.finder import Finder, common_folder, finder_of_folder
from modist_pipelines.lists.jsons import looks_like_json, read_json
from modist_pipelines.lists.split_files import HMDB51_NAME, UCF101_LINE, read_hmdb51, read_ucf101
from modist_pipelines.lists.table import numbered
from modist_pipelines.lists.tables import read_table
from modist_pipelines.remote.access import look_at_all
from modist_pipelines.remote.urls import named, url_of
from modist_pipelines.video.discovery import all_files

log = logging.getLogger("modist")
_SHOWN = 20


@dataclass(frozen=True)
class Listing:
    """Videos and their labels, sorted by path."""

    root: Path
    videos: list[str]
    labels: dict[str, str | None]
    absent: list[dict[str, str]]
    """Quarantine rows of the videos that are not there."""


def read_listing(path: Path, root: Path | None, kind: ListFormat = "auto") -> Listing:
    """Read a list, and find its videos.

    Args:
        path: a list; for HMDB51 also the folder of its split files.
        root: what the paths are relative to; by default the folder of the list, or the one that holds all videos of a
            list of absolute paths.
        kind: the format; "auto" tells it from the contents.

    Raises:
        DataError: not a list, or none of its videos is there.
    """
    home = root or (path if path.is_dir() else path.parent)
    finder = finder_of_folder(home, lambda: all_files(home))
    entries = read_entries(path, kind, finder)
    look_at_all(dict.fromkeys(url for entry in entries if (url := url_of(entry.candidates[0])) is not None))
    if root is None and (common := common_folder(entries)) is not None and not _is_within(common, home):
        log.info("%s: the paths are taken as relative to %s, which holds them all", path, named(common))
        home = common
        finder = finder_of_folder(home, lambda: all_files(common))
    resolved = finder.resolve(entries)
    if not resolved.found:
        first = entries[0]
        raise DataError(
            f"none of the {len(entries)} videos of {named(path)} is in {named(home)}; the first should be "
            f"{first.candidates[0]} (line {first.line}). Give the folder of the videos as --root."
        )
    for way, number in resolved.ways.items():
        log.info("%s: %d videos were found %s", path, number, way)
    if resolved.absent:
        log.warning(
            "%d of %d videos of %s are not in %s and are passed over, such as %s; quarantine.parquet names all",
            len(resolved.absent),
            len(entries),
            path,
            named(home),
            ", ".join(entry.candidates[0] for entry, _ in resolved.absent[:_SHOWN]),
        )
    labels = {name: agreed_label(path, name, same) for name, same in resolved.found.items()}
    absent = {
        entry.candidates[0]: {"video": entry.candidates[0], "reason": "missing", "detail": f"line {entry.line}: {why}"}
        for entry, why in resolved.absent
        if entry.candidates[0] not in labels
    }
    return Listing(home, sorted(labels), labels, list(absent.values()))


def read_entries(path: Path, kind: ListFormat = "auto", finder: Finder | None = None) -> list[Entry]:
    """The lines of a list, whether their videos are there or not; says how they were read.

    Args:
        path, kind: as for `read_listing`.
        finder: the files that are there, which tell one reading of a list from another.

    Raises:
        DataError: not a list, or an empty one.
    """
    found = detect(path) if kind == "auto" else kind
    entries, said = _read(path, found, finder)
    if not entries:
        raise DataError(
            f"VIDEOS {path} lists no video (read as {said}). "
            "Name another format by --list-format, or give another list."
        )
    classes = {entry.label for entry in entries} - {None}
    log.info("%s: %d lines, read as %s; %d classes", path, len(entries), said, len(classes))
    if num_unlabelled := sum(entry.label is None for entry in entries):
        log.warning("%s: %d of %d lines have no label", path, num_unlabelled, len(entries))
    return entries


def agreed_label(path: Path, name: str, same: Sequence[Entry]) -> str | None:
    """The label of the rows of one video; None, with a warning that names them, where they disagree."""
    labels: Mapping[str | None, int] = {entry.label: entry.line for entry in reversed(same)}
    if len(labels) == 1:
        return same[0].label
    rows = ", ".join(f"line {line} {label!r}" for label, line in sorted(labels.items(), key=lambda item: item[1]))
    log.warning("%s: the rows of %s disagree (%s), so it has no label", path, name, rows)
    return None


def detect(path: Path) -> ListFormat:
    """The format of a list, by its name and first lines."""
    if path.is_dir() or (path.suffix == ".txt" and HMDB51_NAME.search(path.stem)):
        return "hmdb51"
    text, _ = read_text(path)
    if looks_like_json(text):
        return "json"
    lines = numbered(text)
    if lines and all(UCF101_LINE.fullmatch(line.strip()) for _, line in lines):
        return "ucf101"
    return "csv"


def _read(path: Path, kind: ListFormat, finder: Finder | None) -> tuple[list[Entry], str]:
    if kind == "hmdb51":
        return read_hmdb51(path), "split files of HMDB51: the class from the file's name"
    if path.is_dir():
        raise DataError(f"VIDEOS {path} is a folder, and --list-format {kind} is of a file. Give the list.")
    text, encoding = read_text(path)
    text = text.removeprefix("\ufeff")
    coded = "" if encoding == "utf-8" else f", in {encoding}"
    if kind == "ucf101":
        return read_ucf101(path, text), f"a split file of UCF101: the class from the folder{coded}"
    if kind in ("json", "ssv2") or (kind == "kinetics" and looks_like_json(text)):
        entries, said = read_json(path, text)
    else:
        entries, said = read_table(path, text, lambda entry: finder is not None and finder.finds(entry))
    return entries, said + coded


def _is_within(folder: Path, home: Path) -> bool:
    return Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(home))
