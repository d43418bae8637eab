"""The store: JPEG frames and motion maps on the frame grid, read frame by frame at random.

    STORE/store.json         what the store holds and how it was made (`StoreMeta`)
    STORE/index.parquet      one row a video: size, frame offsets, checksums, motion scores
    STORE/columns/*.npy      the same of a large store, to be mapped (`columns`)
    STORE/shards/NNNNN.bin   JPEGs one after the other: a video's RGB frames, then its motion maps
    STORE/quarantine.parquet the videos that could not be used, and why
    STORE/sources.parquet    the files that the videos were made from: size, time, checksum

Time runs on a nominal clock of `fps` frames a second: nominal frame i is the source frame shown at i / fps.
Grid frame g is nominal frame g * grid, and only grid frames are stored. `store_writer` holds the other half.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32  # ten times as fast as zlib's, which costs more than the read

from modist_pipelines.errors import DamagedError, DataError
from modist_pipelines.motion_inputs import MapScale, find_motion_input
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.remote.urls import local_of, named
from modist_pipelines.source import ListColumn, Reading, VideoInfo
from modist_pipelines.store.columns import NUMBERS, Columns
from modist_pipelines.store.index import read_index, read_table
from modist_pipelines.store.places import GetBytes, shard_path, shards_of

FORMAT = "modist-store"
VERSION = 1
META_NAME = "store.json"
INDEX_NAME = "index.parquet"
QUARANTINE_NAME = "quarantine.parquet"
PARTIAL_NAME = ".partial"  # where a store in the making keeps its notes
Border = Literal["replicate", "zero"]
# A read that fails is tried again: network file systems have bad moments, and their handles go stale.
_READ_PAUSES = (0.05, 0.5, 2.0)  # seconds before the second, third and last try


@dataclass(frozen=True)
class StoreMeta:
    """The contents of store.json."""

    short_side: int
    """Pixels of the shorter side of the stored frames, at which the flow was computed too."""
    motion_inputs: Mapping[str, MapScale]
    """Name of each motion input that it holds, to the meaning of its pixels."""
    fps: float = 30.0
    """Frames a second of the nominal clock."""
    grid: int = 4
    """Every `grid`-th nominal frame is stored."""
    jpeg_quality: int = 90
    flow: str = "dis"
    """Estimator: "dis", "raft-large", "raft-small" or "nvof"; "codec" for the motion vectors of the streams."""
    flow_weights: str | None = None
    """File name and SHA-256 of the estimator's weights."""
    flow_resolution: str = "the stored frames"
    sobel_gain: float = 1.0
    """Factor on the plain 3x3 Sobel filter (weights 1 2 1), before the clamp."""
    border: Border = "replicate"
    """What the Sobel filter sees beyond the frame: "replicate" or "zero"."""
    aspect: Literal["display", "storage"] = "storage"
    """Whether pixels are made square; the defaults of this and the next two are those of stores that do not say."""
    untagged_hd: Literal["bt709", "bt601"] = "bt601"
    """Colour matrix of frames beyond 1024x576 that name none."""
    size_change: Literal["refuse", "scale"] = "scale"
    """What became of videos whose frames change their shape."""
    frames_fps: float = 30.0
    """Frames a second of folders of pictures."""
    fingerprint: str | None = None
    """Of a store that was compacted, the one that it had before."""

    def to_json(self) -> str:
        record = {"format": FORMAT, "version": VERSION}
        record |= {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name in ("frames_fps", "fingerprint"):  # versions that do not know them read stores without them
            if record[name] == getattr(StoreMeta, name):
                del record[name]
        record["motion_inputs"] = {name: _plain(scale) for name, scale in self.motion_inputs.items()}
        return json.dumps(record, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, path: Path) -> "StoreMeta":
        """Parse store.json. `path` names the file in errors.

        Raises:
            DataError: not JSON, another format or version, or a field that is absent.
        """
        again = "Prepare the videos again with modist prepare into another folder."
        try:
            record = json.loads(text)
            found = (record.pop("format", None), record.pop("version", None))
            if found != (FORMAT, VERSION):
                raise DataError(
                    f"{path} says format {found[0]!r}, version {found[1]!r}, but this program reads "
                    f"{FORMAT!r}, version {VERSION}. {again}"
                )
            scales = {name: MapScale(**scale) for name, scale in record.pop("motion_inputs").items()}
            meta = StoreMeta(motion_inputs=scales, **record)
            if wrong := _wrong(meta):
                raise ValueError(wrong)
            return meta
        except DataError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error!r}). {again}") from error


def _wrong(meta: StoreMeta) -> str | None:
    """Which of its values cannot be."""
    numbers: dict[str, tuple[Any, float, float]] = {
        "short_side": (meta.short_side, 1, 65_535),
        "fps": (meta.fps, 1e-3, 1e6),
        "grid": (meta.grid, 1, 1e6),
        "jpeg_quality": (meta.jpeg_quality, 1, 100),
        "sobel_gain": (meta.sobel_gain, 1e-9, 1e9),
    }
    for name, scale in meta.motion_inputs.items():
        numbers |= {
            f"{name}.full_scale": (scale.full_scale, 1e-9, 1e9),
            f"{name}.zero": (scale.zero, 0, 254),
            f"{name}.channels": (scale.channels, 1, 64),
        }
    whole = ("short_side", "grid", "jpeg_quality", "zero", "channels")
    for name, (value, low, high) in numbers.items():
        kinds = int if name.rpartition(".")[2] in whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            return f"{name} is {value!r}"
    texts = {name: getattr(meta, name) for name in ("flow", "flow_resolution", "border", "aspect", "untagged_hd")}
    texts |= {name: value for name in ("flow_weights", "fingerprint") if (value := getattr(meta, name)) is not None}
    return next((f"{name} is {value!r}" for name, value in texts.items() if not isinstance(value, str)), None)


def _plain(scale: MapScale) -> dict[str, Any]:
    """Without what is as in the first stores, so that versions which know no other read them."""
    return {part.name: getattr(scale, part.name) for part in fields(scale) if getattr(scale, part.name) != part.default}


class StringColumn(Sequence):
    """A Parquet string column that reads like a list."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return self._column[row].to_pylist()
        return self._column[int(row)].as_py()


class Store:
    """A finished store. Reading is by `pread`: safe from several threads, after a fork, and when pickled.

    Attributes:
        path: the folder, or its URL.
        tables: the folder of its tables on this machine: `path`, or a copy for a URL.
        pixels: "jpeg", what reading gives.
        meta: what store.json says.
        num_videos: rows of the index. A video is named by its row everywhere else.
        videos, labels: sequences of `str` and `str | None`, one a video.
    """

    pixels: Literal["jpeg"] = "jpeg"

    def __init__(self, path: str | Path) -> None:
        self.path = local_of(Path(path))
        self._shards = shards_of(self.path)
        self.tables = self._shards.tables
        self.meta = _read_meta(self.tables, self.path)
        self._mapped = Columns.of(self.tables, self.tables / INDEX_NAME)
        self._open_index() if self._mapped is None else self._map_index(self._mapped)
        self._check_shard_sizes()

    def _open_index(self) -> None:
        table = read_index(self.tables / INDEX_NAME, self.meta.motion_inputs)
        self.num_videos = table.num_rows
        self.videos: Sequence[str] = StringColumn(table["video"])
        self.labels: Sequence[str | None] = StringColumn(table["label"])
        self._numbers = {name: table[name].to_numpy() for name in NUMBERS}
        kinds = ("rgb", *self.meta.motion_inputs)
        self._offsets = {kind: ListColumn(table[f"{kind}_offsets"]) for kind in kinds}
        self._crc32 = {kind: ListColumn(table[f"{kind}_crc32"]) for kind in kinds}
        self._scores = {name: ListColumn(table[f"{name}_scores"]) for name in self.meta.motion_inputs}

    def _map_index(self, mapped: Columns) -> None:
        self.num_videos, self.videos, self.labels = mapped.num_videos, mapped.videos, mapped.labels
        self._numbers = {name: mapped.array(name) for name in NUMBERS}
        self._offsets, self._crc32 = {}, {}
        for kind in ("rgb", *self.meta.motion_inputs):
            channels = self.channels(kind)
            self._offsets[kind] = mapped.lists(f"{kind}_offsets", channels, more=1)
            self._crc32[kind] = mapped.lists(f"{kind}_crc32", channels)
        self._scores = {name: mapped.lists(f"{name}_scores") for name in self.meta.motion_inputs}

    def column(self, name: str) -> np.ndarray:
        """(num_videos,) one of `columns.NUMBERS`."""
        return self._numbers[name]

    def list_columns(self) -> dict[str, ListColumn]:
        """The columns of the index that have several values a video."""
        found = {f"{kind}_offsets": column for kind, column in self._offsets.items()}
        found |= {f"{kind}_crc32": column for kind, column in self._crc32.items()}
        return found | {f"{name}_scores": column for name, column in self._scores.items()}

    @property
    def num_frames(self) -> np.ndarray:
        """(num_videos,) int32 grid frames."""
        return self._numbers["num_frames"]

    @property
    def width(self) -> np.ndarray:
        """(num_videos,) int32 pixels."""
        return self._numbers["width"]

    @property
    def height(self) -> np.ndarray:
        """(num_videos,) int32 pixels."""
        return self._numbers["height"]

    @property
    def fps(self) -> float:
        return self.meta.fps

    @property
    def grid(self) -> int:
        return self.meta.grid

    @staticmethod
    def open(path: str | Path) -> "Store":
        """Open a store and check that it is whole.

        Raises:
            DataError: no store, a half-made one, another format version, a damaged index, a missing or
                truncated shard.
        """
        return Store(path)

    def __reduce__(self):
        return Store, (self.path,)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it holds of each frame: "rgb", then the motion inputs."""
        return tuple(self._offsets)

    def shard(self, video: int) -> int:
        """Number of the shard that a video is in."""
        return int(self._numbers["shard"][video])

    def place(self, video: int) -> tuple[int, int]:
        """First byte of a video in its shard, and the one behind its last."""
        kinds = [self._offsets[kind][video] for kind in self.kinds]
        return int(kinds[0][0]), int(kinds[-1][-1])

    def info(self, video: int) -> VideoInfo:
        return VideoInfo(
            num_frames=int(self.num_frames[video]),
            width=int(self.width[video]),
            height=int(self.height[video]),
            video=self.videos[video],
            label=self.labels[video],
            source_fps=float(self._numbers["source_fps"][video]),
            num_source_frames=int(self._numbers["num_source_frames"][video]),
            motion_scores={name: column[video] for name, column in self._scores.items()},
        )

    def scores(self, video: int, name: str) -> np.ndarray:
        """(num_frames,) float32: mean of each motion map of a video, in tenths of its full scale."""
        return self.score_column(name)[video]

    def score_column(self, name: str) -> ListColumn:
        """The scores of all videos as flat arrays.

        Raises:
            DataError: the store does not hold this motion input.
        """
        self._check_kind(name, self._scores)
        return self._scores[name]

    def channels(self, kind: str) -> int:
        """JPEGs that a frame of "rgb" or of a motion input has."""
        return 1 if kind == "rgb" else self.meta.motion_inputs[kind].channels

    def read_frames(self, video: int, kind: str, frames: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """JPEGs of one kind, (num_bytes,) uint8 each: as `read`, with frames in any order and repeats allowed."""
        distinct = sorted({int(frame) for frame in frames})
        jpegs = self.read(video, {kind: distinct}).by_frame(kind, distinct)
        return [jpeg for frame in frames for jpeg in jpegs[int(frame)]]

    def read(self, video: int, wanted: Mapping[str, Sequence[int]]) -> Reading:
        """JPEGs of a video's grid frames; neighbours come in one read.

        Args:
            video: row of the index.
            wanted: "rgb" or a motion input that the store holds, to distinct grid frames in ascending order.

        Raises:
            DamagedError: a frame fails its checksum or cannot be read, after several tries.
            DataError: the store does not hold such a kind.
        """
        shard = self.shard(video)
        jpegs: dict[str, list[np.ndarray]] = {}
        num_bytes = 0
        get = self._reader(video, shard, wanted)
        for kind, frames in wanted.items():
            self._check_kind(kind, self._offsets)
            offsets = self._offsets[kind][video].tolist()
            checksums = self._crc32[kind][video].tolist()
            channels = self.channels(kind)
            found = jpegs[kind] = []
            for first, last in _runs(frames, len(checksums) // channels):
                begin, end = offsets[first * channels], offsets[(last + 1) * channels]
                block = self._read_bytes(get, shard, begin, end, video)
                num_bytes += end - begin
                for place in range(first * channels, (last + 1) * channels):
                    jpeg = block[offsets[place] - begin : offsets[place + 1] - begin]
                    if crc32(jpeg) != checksums[place]:
                        raise DamagedError(
                            f"{shard_path(self.path, shard)} is damaged: {kind} frame {place // channels} of "
                            f"{self.videos[video]} fails its checksum. Remove the store and prepare it again, "
                            "or copy it again from where it came."
                        )
                    found.append(jpeg)
        num_frames = sum(map(len, wanted.values()))
        return Reading(jpegs, frames_decoded=num_frames, bytes_read=num_bytes, bytes_needed=num_bytes)

    def _reader(self, video: int, shard: int, wanted: Mapping[str, Sequence[int]]) -> GetBytes:
        def spans() -> Iterator[tuple[int, int]]:
            for kind, frames in wanted.items():
                self._check_kind(kind, self._offsets)
                offsets, channels = self._offsets[kind][video], self.channels(kind)
                for first, last in _runs(frames, (len(offsets) - 1) // channels):
                    yield int(offsets[first * channels]), int(offsets[(last + 1) * channels])

        try:
            return self._shards.reader(shard, spans, lambda: self.place(video))
        except RemoteError as error:
            raise DataError(f"--store: {error} Then let a run go on: pass --resume auto.") from None

    def _read_bytes(self, get: GetBytes, shard: int, begin: int, end: int, video: int) -> np.ndarray:
        for pause in (*_READ_PAUSES, None):
            try:
                data = get(begin, end)
                if len(data) == end - begin:
                    return np.frombuffer(data, np.uint8)
                problem = f"it ends at byte {begin + len(data)}, not at {end}"
            except OSError as error:
                problem = error.strerror or str(error)
            self._shards.close()
            if pause is not None:
                time.sleep(pause)
        raise DamagedError(
            f"{shard_path(self.path, shard)} cannot be read where {self.videos[video]} is: {problem}, also when tried "
            f"{len(_READ_PAUSES)} times more. Look at the disk or the network file system, or copy the shard again."
        )

    def frame_checksums(self, video: int, kind: str = "rgb") -> np.ndarray:
        """CRC-32 of a video's JPEGs of a kind, (num_frames,) for "rgb": equal for two copies of one video."""
        self._check_kind(kind, self._crc32)
        return self._crc32[kind][video]

    def quarantine(self) -> dict[str, str]:
        """The videos that could not be used, to the reason."""
        rows = read_table(self.tables / QUARANTINE_NAME, ("video", "reason", "detail")).to_pylist()
        return {row["video"]: f"{row['reason']}: {row['detail']}" for row in rows}

    def frame_bytes(self) -> dict[str, float]:
        """Mean bytes of a frame of each kind."""
        if self._mapped is not None:
            return dict(self._mapped.about["frame_bytes"])
        num_frames = int(self.num_frames.sum())
        totals = {
            kind: int((column.values[column.starts[1:] - 1] - column.values[column.starts[:-1]]).sum())
            for kind, column in self._offsets.items()
        }
        return {kind: total / num_frames for kind, total in totals.items()}

    def verify(self) -> None:
        """Read every byte of the store and check it.

        Raises:
            DataError: names the first frame that fails its checksum.
        """
        for video in range(self.num_videos):
            for kind in self._offsets:
                self.read_frames(video, kind, range(int(self.num_frames[video])))

    def fingerprint(self) -> str:
        """SHA-256 of the index, which holds every frame's checksum; compaction leaves it as it was."""
        if self.meta.fingerprint is not None:
            return self.meta.fingerprint
        if self._mapped is not None:
            return self._mapped.about["fingerprint"]
        with (self.tables / INDEX_NAME).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def content(self) -> str:
        """SHA-256 of what the plan and the nets see: names, lengths, sizes, scores and the checksums of all frames.

        Not of where in the shards they lie: a store prepared again from the same videos may have others.
        """
        if self._mapped is not None:
            return self._mapped.about["content"]
        digest = hashlib.sha256(f"{self.fps} {self.grid} {self.kinds}\n".encode())
        digest.update("\n".join(self.videos).encode(errors="surrogateescape"))
        columns = [*self._crc32.values(), *self._scores.values()]
        for values in (self.num_frames, self.width, self.height, *(column.values for column in columns)):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def card(self) -> dict[str, Any]:
        """The contents of store.json."""
        return json.loads(self.meta.to_json())

    def num_bytes(self) -> int:
        """Of all shards."""
        return self._shards.num_bytes()

    def close(self) -> None:
        """Close the shards. A later read opens them again."""
        self._shards.close()

    def check_motion(self, name: str) -> None:
        """
        Raises:
            DataError: there is no such motion input, or the store does not hold it.
        """
        motion = find_motion_input(name)
        self._check_kind(name, self._scores)
        motion.check_stored(self.meta.motion_inputs[name], str(self.path))

    def _check_kind(self, kind: str, held: Mapping[str, ListColumn]) -> None:
        if kind not in held:
            raise DataError(
                f"{self.path} holds no {kind!r}, only {', '.join(held)}. Prepare it with "
                f"--motion-inputs {kind}, or train with --clips.motion-input of one that it holds."
            )

    def shard_sizes(self) -> dict[int, int]:
        """Number of each shard to the bytes of it that videos take, from its beginning to the last of them."""
        if self._mapped is not None:
            return {int(shard): size for shard, size in self._mapped.about["shard_sizes"].items()}
        ends = [column.values[column.starts[1:] - 1] for column in self._offsets.values()]
        shards, which = np.unique(self._numbers["shard"], return_inverse=True)
        sizes = np.zeros(len(shards), np.int64)
        np.maximum.at(sizes, which, np.max(ends, axis=0))
        return dict(zip(shards.tolist(), sizes.tolist(), strict=True))

    def _check_shard_sizes(self) -> None:
        sizes = self.shard_sizes()
        there = self._shards.sizes(sizes)
        for shard, size in sizes.items():
            found = there[shard]
            # More than that are of a video that was removed or made again.
            if found is None or found < size:
                state = "is missing" if found is None else f"has {found} bytes, not {size}"
                raise DataError(
                    f"{named(shard_path(self.path, shard))} {state}: the store is not whole. Copy the shard again from "
                    "where the store came, or remove the store and prepare it again with modist prepare."
                )


def _runs(frames: Sequence[int], num_frames: int) -> list[tuple[int, int]]:
    """Ascending frames as runs of neighbours (first, last): one read each."""
    runs: list[tuple[int, int]] = []
    for frame in frames:
        if not 0 <= frame < num_frames:
            raise IndexError(f"frame {frame} of a video of {num_frames} grid frames")
        if runs and frame == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def _read_meta(tables: Path, path: Path) -> StoreMeta:
    try:
        text = (tables / META_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if (path / PARTIAL_NAME).is_dir():
            raise DataError(
                f"{path} is a half-made store. Run modist prepare with the same options again: it does "
                "only what is missing."
            ) from None
        raise DataError(
            f"{named(path)} is not a store: it has no {META_NAME}. Make one with "
            "`modist prepare VIDEOS --out STORE` and pass its folder as --store."
        ) from None
    return StoreMeta.from_json(text, tables / META_NAME)
