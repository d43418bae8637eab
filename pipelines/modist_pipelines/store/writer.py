"""Writing a store: shards that appear only when they are whole, and the tables that describe them."""

import contextlib
import tempfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modist_pipelines.disk.durable import publish, removed_on_error, write_file
from modist_pipelines.store.columns_writer import map_if_large
from modist_pipelines.store.index import index_schema
from modist_pipelines.store.reader import INDEX_NAME, META_NAME, QUARANTINE_NAME, StoreMeta, shard_path

# Motion maps wait here for the end of their video's RGB frames: in memory below this, then in a file. Small, so that a
# long video takes no more memory than a short one.
_SPOOL_BYTES = 1 << 20


MotionJpegs: TypeAlias = bytes | Sequence[bytes]
"""Of one map: a JPEG a channel, or the one of a map that has but one."""


def each_jpeg(jpegs: MotionJpegs) -> Sequence[bytes]:
    return (jpegs,) if isinstance(jpegs, bytes) else jpegs


def _spool(folder: Path) -> tempfile.SpooledTemporaryFile:
    return tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(folder))


@dataclass
class _FrameList:
    """Sizes and checksums of the JPEGs of one kind of the video being written, and scores of its frames.

    As arrays, which take a tenth of what lists take: a video of hours has 100 000 frames.
    """

    sizes: array = field(default_factory=lambda: array("Q"))
    crc32: array = field(default_factory=lambda: array("I"))
    scores: array = field(default_factory=lambda: array("d"))

    def append(self, jpeg: bytes) -> None:
        self.sizes.append(len(jpeg))
        self.crc32.append(zlib.crc32(jpeg))

    def offsets(self, begin: int) -> np.ndarray:
        return np.concatenate([[begin], begin + np.cumsum(np.asarray(self.sizes, dtype=np.int64))]).astype(np.int64)


class ShardWriter:
    """Writes one shard, video by video.

    Frames of a video are appended one at a time, so that an hour of video needs no more memory than a second;
    `finish_video` keeps them, `drop_video` takes them back. The file gets its name only in `close`, when all
    of it is on the disk.

        with ShardWriter(store, shard=0, motion_inputs=["edges"]) as writer:
            for rgb, edges, score in frames:
                writer.append(rgb, {"edges": (edges, score)})
            writer.finish_video("jump/a.mp4", label="jump", width=171, height=128, ...)
        write_tables(store, meta, writer.table(), quarantine_table([]))
    """

    def __init__(self, store: Path, shard: int, motion_inputs: Sequence[str], temporary: Path | None = None) -> None:
        """
        Args:
            store: folder of the store.
            shard: number of the shard.
            motion_inputs: names of the motion maps that come with each frame.
            temporary: the file to write before the shard gets its name; on the same file system.
        """
        self.path = shard_path(store, shard)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary or self.path.with_suffix(".tmp")
        self._shard = shard
        self._motion_inputs = list(motion_inputs)
        self._rows: list[dict] = []
        self._file = open(self._temporary, "wb")  # noqa: SIM115 (closed in `close` and `__exit__`)
        self._begin_video()

    def _begin_video(self) -> None:
        self._begin = self._file.tell()
        self._frames = {kind: _FrameList() for kind in ("rgb", *self._motion_inputs)}
        self._spools = {name: _spool(self._temporary.parent) for name in self._motion_inputs}

    def append(self, rgb: bytes, motion: Mapping[str, tuple[MotionJpegs, float]]) -> None:
        """Add the next grid frame of the video: its RGB JPEG, and the map and the score of each motion input."""
        self._file.write(rgb)
        self._frames["rgb"].append(rgb)
        for name in self._motion_inputs:
            jpegs, score = motion[name]
            self._frames[name].scores.append(score)
            for jpeg in each_jpeg(jpegs):
                self._spools[name].write(jpeg)
                self._frames[name].append(jpeg)

    def finish_video(
        self,
        video: str,
        *,
        label: str | None,
        width: int,
        height: int,
        source_fps: float,
        num_source_frames: int,
        note: str | None = None,
    ) -> None:
        """Keep the frames since the last `finish_video` or `drop_video` as a row of the index."""
        row = {
            "video": video,
            "label": label,
            "shard": self._shard,
            "width": width,
            "height": height,
            "source_fps": source_fps,
            "num_source_frames": num_source_frames,
            "num_frames": len(self._frames["rgb"].sizes),
            "note": note,
        }
        begin = self._begin
        for kind, frames in self._frames.items():
            offsets = frames.offsets(begin)
            row |= {f"{kind}_offsets": offsets, f"{kind}_crc32": np.asarray(frames.crc32, dtype=np.uint32)}
            begin = int(offsets[-1])
        for name, spool in self._spools.items():
            row[f"{name}_scores"] = np.asarray(self._frames[name].scores, dtype=np.float32)
            spool.seek(0)
            while block := spool.read(1 << 20):
                self._file.write(block)
        self._rows.append(row)
        self._discard_spools()
        self._begin_video()

    def drop_video(self) -> None:
        """Forget the frames since the last `finish_video` or `drop_video`."""
        self._file.seek(self._begin)
        self._file.truncate()
        self._discard_spools()
        self._begin_video()

    def table(self) -> pa.Table:
        """The rows of the index so far, in the order they were written."""
        return pa.Table.from_pylist(self._rows, schema=index_schema(self._motion_inputs))

    def close(self) -> None:
        """Make the shard durable and give it its name. One without videos leaves no file."""
        self.drop_video()
        self._discard_spools()
        if not self._rows:
            self._abandon()
            return
        with removed_on_error(self._temporary):
            self._file.close()
            publish(self._temporary, self.path)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is None:
            self.close()
            return
        self._abandon()

    def _abandon(self) -> None:
        self._discard_spools()
        with contextlib.suppress(OSError):  # a full disk, of which the error that led here speaks
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _discard_spools(self) -> None:
        for spool in self._spools.values():
            spool.close()


QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("video", "reason", "detail")])


def quarantine_table(rows: Sequence[Mapping[str, str]]) -> pa.Table:
    """A table of rows `{"video", "reason", "detail"}`."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=QUARANTINE_SCHEMA)


SOURCES_NAME = "sources.parquet"
# The files that videos were made from, by which a later run sees which were replaced. Not in the index: a store made of
# copies of the same videos, whose times differ, is the same.
SOURCES_SCHEMA = pa.schema(
    [("video", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("crc32", pa.uint32())]
)


def write_tables(
    store: Path,
    meta: StoreMeta,
    index: pa.Table,
    quarantine: pa.Table,
    sources: pa.Table | None = None,
    in_order: bool = False,
) -> None:
    """Finish a store: its tables, then store.json, whose presence says that all is there.

    Args:
        store: the folder.
        meta: for store.json.
        index: its order gives the videos their numbers.
        quarantine: in any order.
        sources: of `SOURCES_SCHEMA`, in any order; None writes none.
        in_order: keep the order of `index`, which is sorted by video else.
    """
    if sources is not None:
        write_parquet(store / SOURCES_NAME, sources.sort_by("video"))
    write_parquet(store / INDEX_NAME, index if in_order else index.sort_by("video"))
    write_parquet(store / QUARANTINE_NAME, quarantine.sort_by("video"))
    write_file(store / META_NAME, meta.to_json().encode())
    map_if_large(store, index.num_rows)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet file under a temporary name, then rename it."""
    # Offsets and checksums are all different: a dictionary of them makes the file larger, and takes memory while it is
    # made, which is that of a long video.
    repeating = [field.name for field in table.schema if not pa.types.is_list(field.type)]
    with removed_on_error(path.with_name(path.name + ".tmp")) as temporary:
        # The annotation of `use_dictionary` leaves out names of columns.
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True, use_dictionary=repeating)  # type: ignore[arg-type]
        publish(temporary, path)
