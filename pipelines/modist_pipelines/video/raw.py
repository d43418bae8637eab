"""Raw videos as a source of clips: no store, every frame decoded anew in every epoch."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clips.graph import VideoEngine
from modist_pipelines.disk.names import file_path
from modist_pipelines.errors import DamagedError, DataError
from modist_pipelines.motion_inputs import MOTION_INPUTS, FramePairs, MotionInput, find_motion_input
from modist_pipelines.progress import Progressing
from modist_pipelines.resources import default_threads
from modist_pipelines.source import ListColumn, Reading, VideoInfo
from modist_pipelines.video.discovery import discover_videos, file_size
from modist_pipelines.video.engine import make_engine
from modist_pipelines.video.frames import decode_nominal
from modist_pipelines.video.picture import RULES, Orientation, PictureRules, chroma_matrix, upright_rgb
from modist_pipelines.video.reader import MAX_ASPECT, MIN_FRAMES, VideoError, VideoReader
from modist_pipelines.video.seeking import DecodedFrames

log = logging.getLogger("modist")
_SHOWN = 3  # names of videos that a message gives


class _Probe(NamedTuple):
    """What one look at a file tells."""

    num_nominal: int
    width: int
    height: int
    source_fps: float
    num_bytes: int
    orientation: Orientation
    is_plain: bool
    """Whether every decoder gives the same picture of it."""

    def listed(self) -> str:
        """As a fingerprint names it: the same as before there were mirrored files, and pixels that are not square."""
        turns: dict[tuple[bool, bool, bool], int] = {
            (False, False, False): 0,
            (True, False, True): 1,
            (False, True, True): 2,
            (True, True, False): 3,
        }
        old = zip(self._fields, self[:5], strict=False)
        fields = ", ".join(f"{name}={value!r}" for name, value in old)
        turned = turns.get(self.orientation, tuple(self.orientation))
        return f"_Probe({fields}, quarter_turns={turned})"


class RawVideos:
    """The videos of a folder and its subfolders.

    Opening reads the head of every file and decodes its first frame; files that cannot be used are left out, counted
    and named. Clips follow the same clock as a store's, so a plan picks the same frames from both. Motion is the
    frame difference, or whatever else needs no flow, at the size of the file; scores are not known, so no window is
    refused for lack of motion.

    Args:
        path: the folder.
        fps, grid: the nominal clock and the frames of it that clips are made of, as in `StoreMeta`.
        device: "cuda:N" decodes on that GPU's video engines, files without time stamps excepted; "cpu" by
            PyAV, or torchcodec where a file does not list its key frames.
        num_threads: files looked at side by side when opening; 0 takes this process's share of the cores.
        names: look at these files of the folder alone.
        rules: what is done where files and tools differ.
        engine: who decodes on a GPU.
        frames_fps: frames a second of folders of pictures.

    Attributes:
        refused: the files that cannot be used, to the reason.

    Raises:
        DataError: no folder, or no usable video in it.
    """

    pixels: Literal["rgb"] = "rgb"

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float = 30.0,
        grid: int = 4,
        device: str = "cpu",
        num_threads: int = 0,
        names: Sequence[str] | None = None,
        rules: PictureRules = RULES,
        engine: VideoEngine = "dali",
        frames_fps: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self._rules = rules
        self._engine = make_engine(engine, torch.device(device)) if device != "cpu" else None
        self.fps, self.grid = fps, grid
        self._frames_fps = frames_fps
        unlisted: list[dict[str, str]] = []
        if names is None:
            names, unlisted = discover_videos(self.path)
        probes: list[_Probe | VideoError] = []
        with (
            ThreadPoolExecutor(num_threads or default_threads()) as threads,
            Progressing("opening", len(names), "videos", brief=True) as progress,
        ):
            for probe in threads.map(self._probe, names):
                probes.append(probe)
                progress.at(len(probes))
        usable = [(name, probe) for name, probe in zip(names, probes, strict=True) if isinstance(probe, _Probe)]
        refused = [(name, probe) for name, probe in zip(names, probes, strict=True) if isinstance(probe, VideoError)]
        refused += [(row["video"], VideoError(row["reason"], row["detail"])) for row in unlisted]
        self.videos: Sequence[str] = [name for name, _ in usable]
        self.num_videos = len(usable)
        self._probes = [probe for _, probe in usable]
        self.refused = {name: str(error) for name, error in refused}
        self._report(refused)

    def _probe(self, name: str) -> _Probe | VideoError:
        path = file_path(self.path, name)
        try:
            return _probe(path, self.fps, self._rules, self._frames_fps)
        except VideoError as error:
            return error

    def _report(self, refused: list[tuple[str, VideoError]]) -> None:
        if refused:
            reasons = Counter(error.reason for _, error in refused)
            log.warning(
                "%d of %d files of %s are left out (%s), such as %s",
                len(refused),
                len(refused) + self.num_videos,
                self.path,
                ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()),
                "; ".join(f"{name} ({error.detail})" for name, error in refused[:_SHOWN]),
            )
        if num_special := sum(not probe.is_plain for probe in self._probes):
            log.info(
                "%d files of %s are decoded by PyAV on the CPU: mirrored, of several streams, HD without a colour "
                "matrix, of pixels that are not square, frames, or in archives",
                num_special,
                self.path,
            )
        if not self.num_videos:
            raise DataError(f"none of the files of {self.path} is a video that can be used. Look at the line above.")

    def info(self, video: int) -> VideoInfo:
        """Size of the file's frames, upright, and number of grid frames as its head promises."""
        probe = self._probes[video]
        return VideoInfo(
            num_frames=math.ceil(probe.num_nominal / self.grid),
            width=probe.width,
            height=probe.height,
            video=self.videos[video],
            source_fps=probe.source_fps,
        )

    def check_motion(self, name: str) -> None:
        """
        Raises:
            DataError: there is no such motion input, or it needs optical flow.
        """
        if find_motion_input(name).needs_flow:
            at_hand = " or ".join(name for name, motion in MOTION_INPUTS.items() if not motion.needs_flow)
            raise DataError(
                f"--clips.motion-input {name} is not to be had from raw videos: optical flow is too slow to compute in "
                f"every epoch. Make a store of it with `modist prepare {self.path} --out STORE` and train "
                f"with --store STORE, or pass --clips.motion-input {at_hand}."
            )

    def score_column(self, name: str) -> ListColumn:
        raise DataError(
            f"the motion scores of the raw videos in {self.path} are not known, so --clips.motion-threshold cannot "
            "choose among their windows. Set it to 0, or prepare a store."
        )

    def read(self, video: int, wanted: Mapping[str, Sequence[int]]) -> Reading:
        """Decode frames of a video, once for all that is wanted.

        Args:
            wanted: "rgb" and motion inputs that need no flow, to distinct grid frames in ascending order.

        Returns:
            (H, W, 3) uint8 RGB and (H, W, 1) uint8 maps against the nominal frame before (after, for frame 0).
            `frames_decoded` counts from each key frame on. `bytes_read` are the packets read, the whole file where it
            does not list its key frames; `bytes_needed` is the frames' share of the file.

        Raises:
            DamagedError: the file does not decode.
        """
        path = file_path(self.path, self.videos[video])
        motion = {
            name: [_pair(frame * self.grid) for frame in frames] for name, frames in wanted.items() if name != "rgb"
        }
        ticks = {frame * self.grid for frame in wanted.get("rgb", ())}
        ticks.update(tick for pairs in motion.values() for pair in pairs for tick in pair)
        try:
            probe = self._probes[video]
            decoded = decode_nominal(
                path,
                self.fps,
                sorted(ticks),
                self._engine,
                orientation=probe.orientation,
                rules=self._rules,
                is_plain=probe.is_plain,
                frames_fps=self._frames_fps,
            )
        except VideoError as error:
            raise DamagedError(f"{path} cannot be decoded ({error}).") from error
        pixels = decoded.pixels
        for picture in pixels.values():
            self._check_size(video, picture)
        frames: dict[str, list[np.ndarray]] = {}
        if "rgb" in wanted:
            frames["rgb"] = [pixels[frame * self.grid] for frame in wanted["rgb"]]
        for name, pairs in motion.items():
            frames[name] = _maps(find_motion_input(name), pixels, pairs)
        return self._reading(video, frames, decoded)

    def _reading(self, video: int, frames: dict[str, list[np.ndarray]], decoded: DecodedFrames) -> Reading:
        num_bytes = self._probes[video].num_bytes
        # As many as the wanted ticks show: several may show one frame.
        num_needed = len({id(picture) for picture in decoded.pixels.values()})
        share = num_needed / max(1, decoded.num_source_frames)
        num_read = num_bytes if decoded.num_bytes is None else decoded.num_bytes
        return Reading(frames, decoded.num_decoded, num_read, min(num_bytes, round(num_bytes * share)))

    def _check_size(self, video: int, frame: np.ndarray) -> None:
        probe = self._probes[video]
        if frame.shape[:2] != (probe.height, probe.width):
            raise DamagedError(
                f"{self.path / self.videos[video]} changes its size from {probe.width}x{probe.height} to "
                f"{frame.shape[1]}x{frame.shape[0]} pixels, or was replaced since the run began."
            )

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and lengths."""
        listing = "\n".join(f"{name}\t{probe.listed()}" for name, probe in zip(self.videos, self._probes, strict=True))
        return hashlib.sha256(f"{self.fps} {self.grid}\n{listing}".encode()).hexdigest()

    def content(self) -> str:
        """As the fingerprint: it knows no folder."""
        return self.fingerprint()

    def card(self) -> dict[str, Any]:
        return {"format": "raw-videos", "fps": self.fps, "grid": self.grid, "num_videos": self.num_videos}

    def close(self) -> None:
        """Nothing stays open between reads."""


def _probe(path: Path, fps: float, rules: PictureRules, frames_fps: float) -> _Probe:
    """
    Raises:
        VideoError: not a video, or one that is too short or too narrow.
    """
    with VideoReader(path, frames_fps) as reader:
        duration = reader.duration
        first = next(reader.decoded_frames(), None)
        if first is None:
            raise VideoError("no_frames", "the video stream is empty")
        height, width = upright_rgb(first, reader.pixel_aspect, rules).shape[:2]
        orientation = Orientation.of(first)
        is_plain = (rules.aspect == "storage" or reader.pixel_aspect == 1) and chroma_matrix(first, rules) is None
        is_plain &= orientation.is_rotation()
        # Other decoders are handed a path, and open files alone.
        is_plain &= len(reader.container.streams.video) == 1 and path.is_file()
        if duration is None:  # the head does not say, so all packets must
            step = float(reader.frame_step)
            duration = step * (1 + sum(1 for _ in reader.decoded_frames()))
        num_nominal = math.ceil(duration * fps - 1e-3)  # ticks before the end, whatever the rounding
        source_fps = reader.source_fps
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError("extreme_shape", f"{width}x{height} pixels")
    if num_nominal < MIN_FRAMES:
        raise VideoError("too_short", f"{num_nominal} frames on the nominal clock")
    return _Probe(num_nominal, width, height, source_fps, file_size(path), orientation, is_plain)


def _pair(tick: int) -> tuple[int, int]:
    """A nominal frame and the one that its motion is measured against."""
    return tick, tick - 1 if tick else 1


def _maps(
    motion: MotionInput, pixels: Mapping[int, np.ndarray | Tensor], pairs: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    gray: dict[int, np.ndarray] = {}
    for tick in {tick for pair in pairs for tick in pair}:
        frame = pixels[tick]
        # From an engine, the few frames of a clip take the way over the host; training without a store is for trying.
        host = frame.numpy(force=True) if isinstance(frame, Tensor) else frame
        gray[tick] = cv2.cvtColor(host, cv2.COLOR_RGB2GRAY)
    grays, neighbours = [gray[tick] for tick, _ in pairs], [gray[beside] for _, beside in pairs]
    assert motion.full_scale is not None  # only what --clamp scales has none, and that needs flow
    computed = motion.compute(FramePairs(grays, neighbours), motion.full_scale)
    return [channel[..., None] for maps, _ in computed for channel in maps]
