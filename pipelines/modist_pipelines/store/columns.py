"""The index of a large store once more, as arrays that are mapped and not read: STORE/columns/*.npy.

Parquet has to be unpacked into memory, by every process anew: of ten million videos that is 20 GB a rank. An array on
disk costs what is looked at, and all processes of a machine share its pages. `index.parquet` stays what counts: these
arrays are taken only while they are of that very file, and everything that is asked of the whole index is worked out
when they are written.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from modist_pipelines.source import ListColumn

log = logging.getLogger("modist")

COLUMNS_NAME = "columns"
ABOUT_NAME = "about.json"
VERSION = 1
NUMBERS = {
    "shard": np.int32,
    "width": np.int32,
    "height": np.int32,
    "source_fps": np.float32,
    "num_source_frames": np.int32,
    "num_frames": np.int32,
}
_BLOCK = 1 << 24  # bytes


class MappedStrings(Sequence):
    """UTF-8 texts one after the other, as a list of `str`."""

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = range(len(self))[int(row)]
        begin = int(self._ends[place - 1]) if place else 0
        return self._text[begin : int(self._ends[place])].tobytes().decode()


class CodedStrings(Sequence):
    """Few different texts, None among them, as a list of `str | None`."""

    def __init__(self, codes: np.ndarray, names: Sequence[str]) -> None:
        self._codes, self._names = codes, [*names, None]  # the code of none is -1

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self._names[code] for code in self._codes[row].tolist()]
        return self._names[int(self._codes[int(row)])]


class Columns:
    """Mapped arrays of a store, and what was worked out from all of them."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder = folder
        self.about = about
        self.num_videos = int(about["num_videos"])

    @staticmethod
    def of(store: Path, index: Path) -> "Columns | None":
        """Those of a store, if they are there and of this index.

        Args:
            index: index.parquet.
        """
        folder = store / COLUMNS_NAME
        if not (folder / ABOUT_NAME).is_file():
            return None
        try:
            about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
            wrong = _wrong(folder, about, index)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            wrong = f"is damaged ({error!r})"
        if wrong is None:
            return Columns(folder, about)
        log.warning("%s %s: %s is read instead. modist store compact writes it anew.", folder, wrong, index.name)
        return None

    def array(self, name: str) -> np.ndarray:
        """A mapped array, read-only."""
        return np.load(self._folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)  # memmap itself is slow to index

    def lists(self, name: str, channels: int = 1, more: int = 0) -> ListColumn:
        """A list column with `channels` values a frame, and `more` beside them in each list."""
        frames = self.array("frame_starts")
        starts = frames if channels == 1 and not more else frames * channels + more * np.arange(len(frames))
        return ListColumn.of(self.array(name), starts)

    @property
    def videos(self) -> Sequence[str]:
        return MappedStrings(self.array("video_text"), self.array("video_ends"))

    @property
    def labels(self) -> Sequence[str | None]:
        return CodedStrings(self.array("label"), self.about["labels"])


def _wrong(folder: Path, about: Mapping[str, Any], index: Path) -> str | None:
    """Why arrays are not to be taken."""
    if about["version"] != VERSION:
        return "was written by another version"
    if about["index"] != index_digest(index):
        return f"is not of this {index.name}"
    lengths = array_lengths(folder)
    return None if about["arrays"] == lengths else "is not whole"


def array_lengths(folder: Path) -> dict[str, int]:
    """Bytes of each array's file."""
    return {path.stem: path.stat().st_size for path in sorted(folder.glob("*.npy"))}


def index_digest(index: Path) -> dict[str, int]:
    """Bytes and CRC-32 of index.parquet, at some gigabytes a second."""
    digest, size = 0, index.stat().st_size
    with index.open("rb") as file:
        while block := file.read(_BLOCK):
            digest = crc32(block, digest)
    return {"bytes": size, "crc32": digest}
