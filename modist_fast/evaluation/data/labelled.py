"""The labelled videos of an evaluation, from a store or from files, and why some of them cannot be used."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import LabelledConfig
from modist_pipelines.disk.names import file_path
from modist_pipelines.lists.entry import Entry
from modist_pipelines.lists.finder import Finder, finder_of_names
from modist_pipelines.lists.listing import read_entries
from modist_pipelines.lists.sidecars import labels_of_videos
from modist_pipelines.remote.fetch import use_cache
from modist_pipelines.source import ClipSource, VideoInfo
from modist_pipelines.store.reader import Store
from modist_pipelines.video.discovery import discover_videos, folder_label
from modist_pipelines.video.opener import open_bytes, status
from modist_pipelines.video.raw import RawVideos

log = logging.getLogger("modist")
_SHOWN = 5  # names of videos that a message gives


@dataclass(frozen=True)
class LabelledVideos:
    """Videos with labels, in a fixed order. A video is named by its place here.

    Attributes:
        source: gives the frames.
        names: paths as the list, the store or the folder has them.
        rows: (N,) int64 rows of the source; -1 where the video is odd.
        labels: (N,) int64 places in `classes`.
        columns: name to a value for each video, "" where there is none; "path" and "label" among them.
        groups: what must stay together, or None where there is no such column.
        odd: the videos that cannot be used as far as opening knows, to the reason; what readers find they return.
        when_tested: what an odd video in a test part counts as.
    """

    source: ClipSource
    names: list[str]
    rows: np.ndarray
    labels: np.ndarray
    classes: list[str]
    columns: dict[str, list[str]]
    groups: list[str] | None
    odd: Mapping[int, str] = field(default_factory=dict)
    when_tested: Literal["wrong", "exclude"] = "wrong"

    def __len__(self) -> int:
        return len(self.names)

    def info(self, video: int) -> VideoInfo:
        return self.source.info(int(self.rows[video]))

    def usable(self) -> np.ndarray:
        """(n,) int64 videos that are not odd as far as opening knows."""
        return np.array([video for video in range(len(self)) if video not in self.odd], dtype=np.int64)

    def matching(self, patterns: Sequence[str], option: str) -> np.ndarray:
        """(N,) bool: the videos for which all of "COLUMN=PATTERN" hold.

        Args:
            option: the command-line option that the patterns come from, for errors.

        Raises:
            ConfigError: not of this form, or no such column.
        """
        return _matching(self.columns, len(self), patterns, option)

    def likeness(self, video: int) -> tuple[int, ...]:
        """What copies of one video have in common at least, known without a look into it."""
        info = self.info(video)
        path = file_path(self.source.path, self.names[video])
        num_bytes = 0 if isinstance(self.source, Store) else status(path).num_bytes
        return info.num_frames, info.width, info.height, num_bytes

    def content(self, video: int) -> str:
        """A digest that equal copies of one video share."""
        row = int(self.rows[video])
        if isinstance(self.source, Store):
            return hashlib.sha256(self.source.frame_checksums(row).tobytes()).hexdigest()
        digest = hashlib.sha256()
        with closing(open_bytes(file_path(self.source.path, self.names[video])).file) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """What features of these videos depend on, apart from the network and the views."""
        listing = "\n".join(f"{name}\t{row}" for name, row in zip(self.names, self.rows, strict=True))
        return hashlib.sha256(f"{self.source.fingerprint()}\n{listing}".encode()).hexdigest()


def open_labelled(config: LabelledConfig, stride: int, device: torch.device, num_threads: int = 0) -> LabelledVideos:
    """Open the videos of an evaluation and find the label of each.

    Args:
        stride: nominal frames from one frame of a clip to the next: raw videos are taken on a grid that divides it.
        device: of this process; a GPU decodes raw videos itself.

    Raises:
        ConfigError, DataError: options that do not fit, no videos, no labels, a list that contradicts itself.
    """
    if (config.store is None) == (config.videos is None):
        raise ConfigError("Pass one of --store STORE (made by modist prepare) and --videos FOLDER.")
    use_cache(config.cache, config.cache_gb, (config.store, config.videos))
    if config.store is not None:
        source: ClipSource = Store.open(config.store)
        odd = source.quarantine()
        finder = finder_of_names([*source.videos, *odd])
        entries = _entries(config, finder)
        listed = _find(entries, finder) if entries else _folders([*source.videos, *odd], config.label_depth)
        if not entries and not config.label_depth:  # the store may have its labels from a list
            listed |= {name: Entry((name,), label) for name, label in zip(source.videos, source.labels, strict=True)}
        listed = _chosen(config, listed)
        missing = "not in the store, nor in its quarantine"
    else:
        assert config.videos is not None
        names, unlisted = discover_videos(config.videos)
        odd = {row["video"]: f"{row['reason']}: {row['detail']}" for row in unlisted}
        finder = finder_of_names(names, config.videos)
        entries = _entries(config, finder)
        listed = _chosen(config, _find(entries, finder) if entries else _unlisted(config.videos, names, config))
        wanted = sorted(listed.keys() & set(names))
        if not wanted:
            raise _nothing_found(config, listed)
        grid = math.gcd(4, stride)
        source = RawVideos(
            config.videos,
            grid=grid,
            device=str(device),
            num_threads=num_threads,
            names=wanted,
            frames_fps=config.frames_fps,
        )
        odd |= source.refused
        missing = f"not in {config.videos}"
    rows = {name: row for row, name in enumerate(source.videos)}
    if not listed.keys() & rows.keys():
        raise _nothing_found(config, listed)
    labelled = _assemble(config, source, listed, rows, {name: odd.get(name, missing) for name in listed})
    report_odd(labelled, labelled.odd)
    if rest := rows.keys() - listed.keys():
        log.info("%d videos of %s take no part", len(rest), source.path)
    return labelled


def report_odd(labelled: LabelledVideos, odd: Mapping[int, str]) -> None:
    """Name odd videos in the log, each with its reason."""
    for video, reason in odd.items():
        log.warning("odd video: %s (%s): %s", labelled.names[video], _label(labelled, video), reason)


def _label(labelled: LabelledVideos, video: int) -> str:
    return labelled.classes[labelled.labels[video]]


def _entries(config: LabelledConfig, finder: Finder) -> list[Entry]:
    if config.labels is not None and (config.train_list or config.test_list):
        raise ConfigError(
            "--labels is one list of everything, --train-list and --test-list are two: pass the one or the others."
        )
    if (config.train_list is None) != (config.test_list is None):
        raise ConfigError("--train-list and --test-list go together: pass both.")
    if config.labels is not None:
        return _read(config.labels, config, finder)
    parts = (("train", config.train_list), ("test", config.test_list))
    return [
        replace(entry, columns={**entry.columns, "split": split})
        for split, path in parts
        if path is not None
        for entry in _read(path, config, finder)
    ]


def _read(path: Path, config: LabelledConfig, finder: Finder) -> list[Entry]:
    if not path.exists():
        raise ConfigError(f"the list {path} does not exist. Give the path of one.")
    if not path.is_dir():
        return read_entries(path, config.list_format, finder)
    files = sorted(path.glob(f"*_test_split{config.hmdb_split}.txt"))
    if not files:
        raise ConfigError(
            f"{path} is a folder without *_test_split{config.hmdb_split}.txt, so not the split files of HMDB51. Pass a "
            "list; a folder of videos is --videos."
        )
    return [entry for file in files for entry in read_entries(file, "hmdb51")]


def _find(entries: Sequence[Entry], finder: Finder) -> dict[str, Entry]:
    """Entries under the names that their videos have, the likeliest one where none is there."""
    resolved = finder.resolve(entries)
    for way, number in resolved.ways.items():
        log.info("%d videos of the list were found %s", number, way)
    found: dict[str, Entry] = {}
    named = [(name, entry) for name, same in resolved.found.items() for entry in same]
    for name, entry in [*named, *((entry.candidates[0], entry) for entry, _ in resolved.absent)]:
        before = found.setdefault(name, entry)
        if (before.label, before.columns) != (entry.label, entry.columns):
            raise ConfigError(
                f"the list has {name} twice and not the same: line {before.line} has {_describe(before)}; line "
                f"{entry.line} has {_describe(entry)}. Mend the list."
            )
    return found


def _describe(entry: Entry) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in {"label": entry.label, **entry.columns}.items())


def _folders(names: Sequence[str], depth: int) -> dict[str, Entry]:
    return {name: Entry((name,), folder_label(name, depth)) for name in names}


def _unlisted(folder: Path, names: Sequence[str], config: LabelledConfig) -> dict[str, Entry]:
    """Videos that no list labels: by what lies beside them in an archive, else by their folders."""
    labels = labels_of_videos(folder, names, config.label_depth)
    return {name: Entry((name,), label) for name, label in labels.items()}


def _chosen(config: LabelledConfig, listed: dict[str, Entry]) -> dict[str, Entry]:
    """The entries that have a label and meet --where."""
    if config.label_column is not None:
        listed = {
            name: replace(entry, label=entry.columns.get(config.label_column) or None) for name, entry in listed.items()
        }
    unlabelled = sorted(name for name, entry in listed.items() if entry.label is None)
    if len(unlabelled) == len(listed):
        have = ", ".join(sorted({column for entry in listed.values() for column in entry.columns})) or "none"
        if config.label_column is not None:
            raise ConfigError(
                f"--label-column {config.label_column}: no video has a label there. Name another column of the list: "
                f"it has {have}."
            )
        raise ConfigError(
            "no video has a label. Pass a list of paths and labels as --labels, and the column of the labels as "
            f"--label-column where it is not called label or class. Other columns there are: {have}."
        )
    labelled = {name: entry for name, entry in listed.items() if entry.label is not None}
    mask = _matching(_columns(labelled), len(labelled), config.where, "--where")
    if not mask.any():
        raise ConfigError(
            f"--where {' '.join(config.where)}: no video is left. "
            "Change the conditions: a pattern has to meet the whole value, and * stands for anything."
        )
    chosen = {name: labelled[name] for name, keep in zip(sorted(labelled), mask, strict=True) if keep}
    if unlabelled:
        shown = ", ".join(unlabelled[:_SHOWN])
        log.warning("%d videos have no label and take no part, such as %s", len(unlabelled), shown)
    return chosen


def _columns(listed: dict[str, Entry]) -> dict[str, list[str]]:
    """Values of the videos, which are sorted by name."""
    names = sorted(listed)
    keys = {key for entry in listed.values() for key in entry.columns}
    columns = {key: [listed[name].columns.get(key, "") for name in names] for key in sorted(keys)}
    return columns | {"path": names, "label": [str(listed[name].label) for name in names]}


def _nothing_found(config: LabelledConfig, listed: dict[str, Entry]) -> ConfigError:
    return ConfigError(
        f"{config.store or config.videos} holds none of the {len(listed)} listed videos, such as {min(listed)}. Write "
        "paths relative to the folder that was prepared or is given as --videos."
    )


def _assemble(
    config: LabelledConfig,
    source: ClipSource,
    listed: dict[str, Entry],
    rows: dict[str, int],
    reasons: Mapping[str, str],
) -> LabelledVideos:
    columns = _columns(listed)
    classes = _sorted_classes(set(columns["label"]))
    places = {name: place for place, name in enumerate(classes)}
    return LabelledVideos(
        source=source,
        names=columns["path"],
        rows=np.array([rows.get(name, -1) for name in columns["path"]], dtype=np.int64),
        labels=np.array([places[label] for label in columns["label"]], dtype=np.int64),
        classes=classes,
        columns=columns,
        groups=columns.get(config.group_column),
        odd={video: reasons[name] for video, name in enumerate(columns["path"]) if name not in rows},
        when_tested=config.odd_videos,
    )


def _sorted_classes(classes: set[str]) -> list[str]:
    """Numbers by their value, names by the alphabet."""
    return sorted(classes, key=int) if all(name.isdecimal() for name in classes) else sorted(classes)


def _matching(columns: dict[str, list[str]], num: int, patterns: Sequence[str], option: str) -> np.ndarray:
    chosen = np.ones(num, dtype=bool)
    for pattern in patterns:
        column, equals, wanted = pattern.partition("=")
        if not equals:
            raise ConfigError(f"{option} {pattern}: write COLUMN=PATTERN, such as split=train.")
        if column not in columns:
            raise ConfigError(
                f"{option} {pattern}: the videos have no column {column!r}, only {', '.join(sorted(columns))}. Name "
                "one of these, or pass --labels with a CSV whose header has it."
            )
        chosen &= np.array([fnmatchcase(value, wanted) for value in columns[column]], dtype=bool)
    return chosen
