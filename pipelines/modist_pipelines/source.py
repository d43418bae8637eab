"""What the loader asks of a place that clips come from: a store, or a folder of videos."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

SCORE_FULL_SCALE = 10.0
"""The score of a motion map that is at its full scale everywhere; 0 is no motion."""


@dataclass(frozen=True)
class VideoInfo:
    """What planning a clip needs to know of a video."""

    num_frames: int
    """Grid frames."""
    width: int
    """Pixels of the stored frames."""
    height: int
    video: str = ""
    """Path relative to the folder that was prepared, with forward slashes."""
    label: str | None = None
    """Name of the video's folder, where the prepared folder has subfolders."""
    source_fps: float = 0.0
    num_source_frames: int = 0
    motion_scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name of the motion input to (num_frames,) float32."""

    def scores(self, name: str) -> np.ndarray:
        """(num_frames,) float32: mean of each motion map, in [0, `SCORE_FULL_SCALE`]."""
        return self.motion_scores[name]


class ListColumn:
    """A Parquet list column as two flat arrays, so that millions of rows stay out of Python objects.

    Attributes:
        values: (total,) all rows one after the other.
        starts: (num_rows + 1,) row i is values[starts[i]:starts[i + 1]].
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # pyarrow's answer for a column of no chunks
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
        self.starts = np.asarray(array.offsets)
        self.values = np.asarray(array.values)

    @classmethod
    def of(cls, values: np.ndarray, starts: np.ndarray) -> "ListColumn":
        """A column of arrays that are there."""
        column = cls.__new__(cls)
        column.values, column.starts = values, starts
        return column

    def forget(self) -> None:
        """Give back the memory of values that are mapped; they come again from their file when they are looked at."""
        base: object = self.values
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]


class Reading(NamedTuple):
    """Frames of one video, and what it took to get them."""

    frames: dict[str, list[np.ndarray]]
    """Kind to frames in the order asked: 1-D uint8 JPEGs, or (H, W, C) uint8 pixels; read-only. A motion map of several
    channels is so many JPEGs, or (H, W, 1) pixels, one after the other."""
    frames_decoded: int
    """Frames that had to be decoded for these, those from a key frame on among them. JPEGs: one each."""
    bytes_read: int
    bytes_needed: int
    """Bytes that the asked frames take up in the file."""

    def by_frame(self, kind: str, frames: Sequence[int]) -> dict[int, list[np.ndarray]]:
        """What was read of each of the frames that were asked for."""
        read = self.frames[kind]
        channels = len(read) // max(1, len(frames))
        return {frame: read[at * channels : (at + 1) * channels] for at, frame in enumerate(frames)}


class ClipSource(Protocol):
    """Videos on a frame grid, in a fixed order. `read` is called from several threads."""

    # Read-only, so that a class may hold them as attributes or work them out.
    @property
    def path(self) -> Path: ...

    @property
    def num_videos(self) -> int: ...

    @property
    def grid(self) -> int: ...

    @property
    def fps(self) -> float:
        """Nominal frames a second; every `grid`-th of them is there."""
        ...

    @property
    def videos(self) -> Sequence[str]: ...

    @property
    def pixels(self) -> Literal["jpeg", "rgb"]:
        """What `read` gives."""
        ...

    def info(self, video: int) -> VideoInfo: ...

    def check_motion(self, name: str) -> None:
        """
        Raises:
            DataError: it cannot give this motion input; the message says what can.
        """
        ...

    def score_column(self, name: str) -> ListColumn:
        """The motion scores of all videos.

        Raises:
            DataError: they are not known before the videos are decoded.
        """
        ...

    def read(self, video: int, wanted: Mapping[str, Sequence[int]]) -> Reading:
        """Read frames of a video.

        Args:
            wanted: "rgb" or a motion input, to distinct grid frames in ascending order.

        Raises:
            DamagedError: a frame cannot be read or decoded; the message names it.
        """
        ...

    def fingerprint(self) -> str:
        """What tells these videos from others: a resumed run must draw from those that it began with."""
        ...

    def content(self) -> str:
        """The same, of the videos alone: a copy elsewhere, or one prepared again alike, has it too."""
        ...

    def card(self) -> dict[str, Any]:
        """What a trained backbone's card says of where its clips came from; JSON-ready."""
        ...

    def close(self) -> None: ...
