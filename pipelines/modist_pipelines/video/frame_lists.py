"""Frames as picture files, named by a list: the layout in which AVA's movies are usually kept."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from modist_pipelines.errors import DamagedError, DataError
from modist_pipelines.source import ListColumn, Reading, VideoInfo

_HEADER = ("original_vido_id", "video_id", "frame_id", "path", "labels")  # misspelled so in the lists that go round


class FrameLists:
    """Videos whose frames are JPEGs of one folder, 30 a second, as lists tell: a line is a video, a number of it, the
    frame's number, and the file.

    Opening reads the lists and the head of each video's first frame; videos without one are left out.

    Args:
        folder: the paths of the lists are relative to it.
        lists: separated by spaces, with or without a header.
        fps: frames a second.

    Attributes:
        refused: the videos that cannot be used, to the reason.

    Raises:
        DataError: a list that cannot be read, a line of another form, or no video.
    """

    pixels: Literal["jpeg"] = "jpeg"
    grid = 1

    def __init__(self, folder: Path, lists: Sequence[Path], fps: float = 30.0) -> None:
        self.path, self.fps = folder, fps
        frames: dict[str, list[tuple[int, str]]] = {}
        for path in lists:
            _read(path, frames)
        self._files: list[list[str]] = []
        self._sizes: list[tuple[int, int]] = []
        self.videos: list[str] = []
        self.refused: dict[str, str] = {}
        for video, listed in frames.items():
            files = [file for _, file in sorted(listed)]
            try:
                with Image.open(folder / files[0]) as picture:
                    if picture.format != "JPEG":
                        raise UnidentifiedImageError(f"it is {picture.format}, not JPEG")
                    size = picture.size
            except (OSError, UnidentifiedImageError) as error:
                self.refused[video] = f"its first frame {files[0]} cannot be read ({error})"
                continue
            self.videos.append(video)
            self._files.append(files)
            self._sizes.append(size)
        if not self.videos:
            example = next(iter(self.refused.values()), "the lists are empty")
            raise DataError(
                f"{folder} has no video of the lists {', '.join(map(str, lists))}: {example}. "
                "Give the folder that the lists are of."
            )

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    def info(self, video: int) -> VideoInfo:
        """Size of the first frame, and the number of frames that the lists have."""
        width, height = self._sizes[video]
        return VideoInfo(len(self._files[video]), width, height, self.videos[video], source_fps=self.fps)

    def check_motion(self, name: str) -> None:
        """
        Raises:
            DataError: frames alone have no motion inputs.
        """
        raise DataError(f"frame lists have no motion input {name}: prepare a store of the videos.")

    def score_column(self, name: str) -> ListColumn:
        raise DataError(f"frame lists have no scores of {name}: prepare a store of the videos.")

    def read(self, video: int, wanted: Mapping[str, Sequence[int]]) -> Reading:
        """The JPEGs of frames as they are.

        Raises:
            DamagedError: a file cannot be read.
        """
        found = []
        for frame in wanted["rgb"]:
            path = self.path / self._files[video][frame]
            try:
                found.append(np.frombuffer(path.read_bytes(), np.uint8))
            except OSError as error:
                raise DamagedError(f"{self.videos[video]}: frame {path} cannot be read ({error.strerror}).") from error
        num_bytes = sum(map(len, found))
        return Reading({"rgb": found}, len(found), num_bytes, num_bytes)

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and files."""
        rows = zip(self.videos, self._sizes, self._files, strict=True)
        listing = "\n".join(f"{name}\t{size}\t{files}" for name, size, files in rows)
        return hashlib.sha256(f"{self.fps}\n{listing}".encode()).hexdigest()

    def content(self) -> str:
        """As the fingerprint: files are named as the lists have them."""
        return self.fingerprint()

    def card(self) -> dict[str, Any]:
        return {"format": "frame-lists", "fps": self.fps, "grid": self.grid, "num_videos": self.num_videos}

    def close(self) -> None:
        """Nothing stays open between reads."""


def _read(path: Path, frames: dict[str, list[tuple[int, str]]]) -> None:
    """Add a list's frames: video to (number, file)."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter=" ", skipinitialspace=True)
            for row in reader:
                if not row or tuple(row[:4]) == _HEADER[:4]:
                    continue
                if len(row) not in (4, 5) or not row[2].isdecimal():
                    raise DataError(f"{path}, line {reader.line_num}: {' '.join(row)!r}. Write {' '.join(_HEADER)}.")
                frames.setdefault(row[0], []).append((int(row[2]), row[3]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the frame list {path} cannot be read ({error}). Give a readable text file.") from error
