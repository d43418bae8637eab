"""Lists of videos: CSV and TSV, and the split files of UCF101, HMDB51, Kinetics and Something-Something v2."""

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modist_pipelines.errors import DataError

log = logging.getLogger("modist")

ListFormat = Literal["auto", "csv", "ucf101", "hmdb51", "kinetics", "ssv2"]
_SHOWN = 3
_PATH_COLUMNS = ("path", "video", "filename", "file", "video_path", "name")
_LABEL_COLUMNS = ("label", "class", "category", "label_name")
# What the readers meet in files that are something else: text that is none, absent columns, times that are no numbers.
_ODD = (OSError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError, csv.Error)
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    candidates: tuple[str, ...]
    """Paths under the root that the video may have, the likeliest first."""
    label: str | None
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the line says: a CSV's other columns, "split" where the format has one, "group" of UCF101's names."""


@dataclass(frozen=True)
class Listing:
    """Videos and their labels, sorted by path."""

    root: Path
    videos: list[str]
    labels: dict[str, str | None]


def read_listing(path: Path, root: Path | None, kind: ListFormat = "auto") -> Listing:
    """Read a list, and find its videos.

    Args:
        path: a list; for HMDB51 also the folder of its split files.
        root: what the paths are relative to; by default the folder of the list.
        kind: the format; "auto" tells it from the contents.

    Raises:
        DataError: not a list, or none of its videos is there.
    """
    root = root or (path if path.is_dir() else path.parent)
    entries = read_entries(path, kind)
    labels: dict[str, str | None] = {}
    absent = []
    for entry in entries:
        name = next((name for name in entry.candidates if os.path.isfile(root / name)), None)
        if name is None:
            absent.append(entry.candidates[0])
        else:
            labels.setdefault(name, entry.label)
    if not labels:
        raise DataError(
            f"none of the {len(entries)} videos of {path} is in {root}; the first should be {absent[0]}. Give the "
            "folder of the videos as --root."
        )
    if absent:
        log.warning(
            "%d of %d videos of %s are not in %s and are passed over, such as %s",
            len(absent),
            len(entries),
            path,
            root,
            ", ".join(absent[:_SHOWN]),
        )
    return Listing(root, sorted(labels), labels)


def read_entries(path: Path, kind: ListFormat = "auto") -> list[Entry]:
    """The lines of a list, whether their videos are there or not. Arguments as for `read_listing`.

    Raises:
        DataError: not a list, or an empty one.
    """
    try:
        found = detect(path) if kind == "auto" else kind
        entries = list(_READERS[found](path))
    except DataError:
        raise
    except _ODD as error:
        raise DataError(
            f"VIDEOS {path} cannot be read as a list ({error!r}). --list-format names its format."
        ) from error
    log.info("%s: %d lines, read as %s", path, len(entries), found)
    if not entries:
        raise DataError(f"VIDEOS {path} lists no video (read as {found}). --list-format names another format.")
    return entries


def detect(path: Path) -> Literal["csv", "ucf101", "hmdb51", "kinetics", "ssv2"]:
    """The format of a list, by its first lines."""
    if path.is_dir() or re.search(r"_test_split\d\.txt$", path.name):
        return "hmdb51"
    text = _head(path)
    if text.lstrip().startswith("["):
        return "ssv2"
    first = text.split("\n", 1)[0]
    if set(re.split(r"[,\t]", first.strip())) >= _KINETICS_COLUMNS:
        return "kinetics"
    # "Class/v_Class_g01_c01.avi" with a class number in training lists.
    if re.fullmatch(r"\w+/v_\w+\.avi(\s+\d+)?", first.strip()):
        return "ucf101"
    return "csv"


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(4096)
    except UnicodeDecodeError as error:
        raise DataError(f"VIDEOS {path} is neither a folder nor a list: it is not text ({error}).") from error


def _read_csv(path: Path) -> Iterator[Entry]:
    """Path and label, by a header or in this order; separated by commas, tabs, semicolons or spaces."""
    head = _head(path).split("\n", 1)[0]
    delimiter = next((sign for sign in "\t,;" if sign in head), " ")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if any(row)]
    if not rows:
        return
    names = [cell.strip().lower() for cell in rows[0]]
    path_column = next((names.index(name) for name in _PATH_COLUMNS if name in names), None)
    label_column = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if path_column is None:
        path_column, label_column, names = 0, 1, []
    else:
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) <= path_column:
            raise DataError(f"{path}: row {number} has {len(row)} columns, none for the path.")
        label = row[label_column].strip() if label_column is not None and len(row) > label_column else None
        columns = {name: cell.strip() for name, cell in zip(names, row, strict=False)}
        yield Entry((row[path_column].strip(),), label or None, columns)


def _read_ucf101(path: Path) -> Iterator[Entry]:
    """trainlist01.txt, testlist01.txt: the folder is the class, "g01" in the name the group within it."""
    for line in _lines(path):
        name = line.split()[0]
        label = name.split("/")[0]
        group = re.search(r"_(g\d+)_", name)
        yield Entry((name, Path(name).name), label, {"group": f"{label} {group[1]}"} if group else {})


def _read_hmdb51(path: Path) -> Iterator[Entry]:
    """brush_hair_test_split1.txt: "name.avi 1" (1 training, 2 test, 0 neither); the file's name is the class."""
    files = sorted(path.glob("*_test_split*.txt")) if path.is_dir() else [path]
    for file in files:
        label = re.sub(r"_test_split\d$", "", file.stem)
        for line in _lines(file):
            name, _, part = line.rpartition(" ")
            if part.strip() != "0":
                split = {"split": "train" if part.strip() == "1" else "test"}
                yield Entry((f"{label}/{name.strip()}", name.strip()), label, split)


def _read_kinetics(path: Path) -> Iterator[Entry]:
    """label, youtube_id, time_start, time_end, split: clips are called ID_START_END.mp4."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t" if "\t" in _head(path).split("\n", 1)[0] else ","):
            label = row.get("label") or None
            clip = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            folders = [""] if label is None else [f"{label}/", f"{label.replace(' ', '_')}/", ""]
            split = row.get("split")
            folders += [f"{split}/{folder}" for folder in folders] if split else []
            suffixes = (".mp4", ".mkv", ".webm")
            paths = tuple(f"{folder}{clip}{suffix}" for folder in folders for suffix in suffixes)
            yield Entry(paths, label, {"split": split} if split else {})


def _read_ssv2(path: Path) -> Iterator[Entry]:
    """[{"id": "78687", "template": "Holding [something]", ...}]: videos are called ID.webm."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            template = row.get("template") or row.get("label")
            label = re.sub(r"[\[\]]", "", template) if template else None
            yield Entry(tuple(f"{row['id']}{suffix}" for suffix in (".webm", ".mp4")), label)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a list of Something-Something v2 ({error!r}).") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


_READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    "csv": _read_csv,
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "kinetics": _read_kinetics,
    "ssv2": _read_ssv2,
}
