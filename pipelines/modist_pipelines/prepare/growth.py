"""What a store, finished or half made, has of the videos that are asked for, and what is left to do."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from isal.isal_zlib import crc32

from modist_pipelines.disk.names import file_path
from modist_pipelines.prepare.partial import PartialStore
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.store.index import read_table
from modist_pipelines.store.reader import INDEX_NAME, META_NAME, QUARANTINE_NAME
from modist_pipelines.store.writer import SOURCES_NAME, SOURCES_SCHEMA, quarantine_table
from modist_pipelines.video.opener import open_bytes, status

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Known:
    """The rows that count: of a video that was made again, the latest."""

    index: pa.Table
    """Of the store in its order, then of finished shards by name."""
    quarantine: pa.Table
    sources: pa.Table
    """Size, time and CRC-32 of the files when they were read; none of those made before they were kept."""
    num_store_rows: int
    """Of the index, that the finished store has."""

    @staticmethod
    def of(store: Path, partial: PartialStore) -> "Known":
        layers: list[tuple[pa.Table, pa.Table, pa.Table]] = []
        if (store / META_NAME).is_file():
            sources = _sources(store / SOURCES_NAME)
            layers.append((read_table(store / INDEX_NAME), read_table(store / QUARANTINE_NAME), sources))
        has_store = len(layers)
        shards = partial.finished()
        if shards:
            layers.append(_latest([partial.shard_tables(shard) for shard in shards]))
        if not layers:
            empty = pa.table({"video": pa.array([], pa.string())})
            return Known(empty, quarantine_table([]), SOURCES_SCHEMA.empty_table(), 0)
        newest = set(_names(layers[-1][0]) + _names(layers[-1][1])) if len(layers) > 1 else set()
        first = [_where(table, newest, keep=False) for table in layers[0]]
        joined = [
            pa.concat_tables([table, *(layer[place] for layer in layers[1:])], promote_options="default")
            for place, table in enumerate(first)
        ]
        return Known(joined[0], joined[1], joined[2], first[0].num_rows if has_store else 0)

    def restricted(self, videos: Iterable[str]) -> "Known":
        """Without the rows of videos that are no longer there."""
        wanted = set(videos)
        index = _where(self.index, wanted)
        in_store = _where(self.index.slice(0, self.num_store_rows), wanted).num_rows
        return Known(index, _where(self.quarantine, wanted), _where(self.sources, wanted), in_store)

    def videos(self) -> list[str]:
        return _names(self.index)

    def quarantined(self, but: Collection[str] = ()) -> list[str]:
        """Names in quarantine, without those of some reasons."""
        return [row["video"] for row in self.quarantine.to_pylist() if row["reason"] not in but]

    def replaced(self, root: Path, videos: Iterable[str]) -> set[str]:
        """Videos whose files are others than those that were read: by size, then time, then content."""
        noted = {row["video"]: row for row in self.sources.to_pylist()}
        return {video for video in videos if video in noted and _is_replaced(file_path(root, video), noted[video])}


@dataclass(frozen=True)
class Growth:
    """The difference between what is asked for and what is there."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    retried: tuple[str, ...]

    @staticmethod
    def between(known: Known, root: Path, videos: Sequence[str], retry_quarantined: bool) -> "Growth":
        # What a list named before it was there, or a server did not give, was never tried.
        there, out = set(known.videos()), set(known.quarantined(but=("missing", "unreachable")))
        wanted = set(videos)
        replaced = known.replaced(root, wanted & (there | out))
        return Growth(
            added=tuple(sorted(wanted - there - out)),
            removed=tuple(sorted(there - wanted)),
            replaced=tuple(sorted(replaced)),
            retried=tuple(sorted(wanted & out - replaced)) if retry_quarantined else (),
        )

    def todo(self) -> list[str]:
        """Videos to encode, sorted."""
        return sorted({*self.added, *self.replaced, *self.retried})

    def __bool__(self) -> bool:
        return bool(self.todo() or self.removed)

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "removed": self.removed,
            "replaced": self.replaced,
            "to try again": self.retried,
        }
        return ", ".join(f"{len(videos)} {what}" for what, videos in counts.items() if videos)


def relabelled(index: pa.Table, labels: Mapping[str, str | None] | None) -> pa.Table:
    """With the labels of a list, which may have changed since; None leaves them."""
    if labels is None:
        return index
    column = pa.array([labels.get(video) for video in _names(index)], pa.string())
    return index.set_column(index.column_names.index("label"), index.schema.field("label"), column)


def source_row(video: str, path: Path, on_progress: Callable[[int], None] = lambda num: None) -> dict[str, str | int]:
    """A row of sources.parquet.

    Args:
        on_progress: called now and then, with 0, while the file is read.

    Raises:
        OSError: the file cannot be read.
    """
    num_bytes, mtime_ns = status(path)
    return {"video": video, "bytes": num_bytes, "mtime_ns": mtime_ns, "crc32": _checksum(path, on_progress)}


def _is_replaced(path: Path, noted: Mapping[str, int]) -> bool:
    try:
        num_bytes, mtime_ns = status(path)
        if num_bytes != noted["bytes"]:
            return True
        return mtime_ns != noted["mtime_ns"] and _checksum(path) != noted["crc32"]
    except RemoteError as error:
        return error.reason == "gone"  # a server that does not answer has replaced nothing
    except OSError:  # for the encoder to say
        return True


def _checksum(path: Path, on_progress: Callable[[int], None] = lambda num: None) -> int:
    checksum = 0
    with closing(open_bytes(path).file) as file:
        while block := file.read(_BLOCK):
            checksum = crc32(block, checksum)
            on_progress(0)
    return checksum


def _latest(tables: Sequence[tuple[pa.Table, pa.Table, pa.Table]]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Index, quarantine and sources of several shards, of each video the rows of the last that has it."""
    owner: dict[str, int] = {}
    for place, (index, quarantine, _) in enumerate(tables):
        owner |= dict.fromkeys(_names(index) + _names(quarantine), place)
    owned: list[set[str]] = [set() for _ in tables]
    for video, place in owner.items():
        owned[place].add(video)
    kept = [[_where(table, own) for table in three] for own, three in zip(owned, tables, strict=True)]
    index, quarantine, sources = (pa.concat_tables(part) for part in zip(*kept, strict=True))
    return index.sort_by("video"), quarantine, sources


def _sources(path: Path) -> pa.Table:
    return read_table(path) if path.is_file() else SOURCES_SCHEMA.empty_table()


def _names(table: pa.Table) -> list[str]:
    return table["video"].to_pylist()


def _where(table: pa.Table, videos: set[str], *, keep: bool = True) -> pa.Table:
    return table.filter(pa.array([(video in videos) == keep for video in _names(table)], pa.bool_()))
