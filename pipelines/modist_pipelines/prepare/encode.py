"""One video in, the frames and motion maps of its grid out."""

import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import av
import cv2
import numpy as np

from modist_pipelines.clips.ahead import ahead
from modist_pipelines.codec_motion.flow import Way, dense_flow
from modist_pipelines.codec_motion.reader import MotionReader
from modist_pipelines.motion_inputs import FLOW_SPAN, Flow, FramePairs
from modist_pipelines.prepare.flow import FlowEstimator, to_gray
from modist_pipelines.prepare.motion import MotionMaps
from modist_pipelines.store.writer import MotionJpegs
from modist_pipelines.video.picture import RULES, FrameScaler, PictureRules
from modist_pipelines.video.reader import MIN_FRAMES, VideoError, VideoReader

# Gray levels. A video in which no stored pixel ever changes by more is one picture and its codec's noise.
_MOTIONLESS_LEVELS = 8


_COLLECT_EVERY = 16  # batches
_MOST_THREADS = 64

_Jpegs: TypeAlias = tuple[bytes, Mapping[str, tuple[MotionJpegs, float]]]
"""Of one grid frame: RGB, and the map and the score of each motion input."""


class FrameSink(Protocol):
    def append(self, rgb: bytes, motion: Mapping[str, tuple[MotionJpegs, float]]) -> None: ...


class Frame(NamedTuple):
    """A decoded frame at the stored size."""

    bgr: np.ndarray
    """(H, W, 3) uint8."""
    gray: np.ndarray
    """(H, W) uint8."""
    number: int = 0
    """Among those of the file, where its motion vectors are asked for."""


class GridFrame(NamedTuple):
    """A grid frame and the nominal frames that its motion is measured against."""

    frame: Frame
    reference: Frame
    """5 nominal frames earlier; for the first 5, which have none, 5 later: the same span of time."""
    neighbour: Frame
    """1 nominal frame earlier; later for the first."""
    is_later: bool
    """Whether the reference is."""
    way: Way | None = None
    """To the reference by the codec's motion vectors, where they are asked for."""


class _Encoded(NamedTuple):
    """What a batch of grid frames comes to."""

    frames: list[_Jpegs]
    flow_seconds: float
    seconds: float
    """Of motion maps and JPEGs."""


@dataclass(frozen=True)
class EncodedVideo:
    """What became of a video."""

    width: int
    height: int
    source_fps: float
    num_source_frames: int
    num_nominal_frames: int
    note: str | None
    """What was not as it should be."""


class VideoEncoder:
    """Decodes, scales, measures motion, compresses. One object serves many videos, one after the other."""

    def __init__(
        self,
        *,
        short_side: int,
        fps: float,
        grid: int,
        jpeg_quality: int,
        flow: FlowEstimator | None,
        motion: MotionMaps,
        rules: PictureRules = RULES,
        frames_fps: float = 30.0,
        codec_motion: bool = False,
    ) -> None:
        """
        Args:
            flow: of pairs of frames; None where no motion map needs any, or it is had from the codec.
            codec_motion: take the flow from the motion vectors in the streams.
            ...: options of preparation.
        """
        self._short_side, self._fps, self._grid = short_side, fps, grid
        self._jpeg_options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        self._flow = flow
        self._motion = motion
        self._rules = rules
        self._frames_fps = frames_fps
        self._codec_motion = codec_motion
        self.seconds = {"decode": 0.0, "flow": 0.0, "encode": 0.0}
        """Spent so far. With a flow that takes batches decoding overlaps the rest; one on a GPU ends with its edges."""

    def encode(
        self,
        path: Path,
        sink: FrameSink,
        max_seconds: float | None = None,
        on_progress: Callable[[int], None] = lambda num: None,
        share: Callable[[], int] = lambda: 1,
    ) -> EncodedVideo:
        """Append the grid frames of a video to a sink.

        Args:
            path: the file.
            sink: takes the frames; what it got before an error is to be dropped.
            max_seconds: stop after this much of the video, though not before `MIN_FRAMES` of the clock.
            on_progress: called now and then with the number of nominal frames so far, while frames are decoded.
            share: how many threads may compute flow and JPEGs, asked for at each frame; they come out the same. A flow
                that takes batches is left to one.

        Raises:
            VideoError: the video cannot be used.
        """
        read = MotionReader if self._codec_motion else VideoReader
        with read(path, self._frames_fps) as reader:
            scaler = FrameScaler(self._short_side, reader.pixel_aspect, self._rules)
            nominal = reader.nominal_frames(self._fps)
            if max_seconds is not None:
                nominal = itertools.islice(nominal, max(MIN_FRAMES, round(max_seconds * self._fps)))
            windows = grid_windows(nominal, _Loader(scaler, reader), self._grid)
            if isinstance(reader, MotionReader):
                windows = _with_ways(windows, reader, scaler)
            largest_change = 0
            batch_size = self._flow.batch_size if self._flow else 1
            batches = self._batches(windows, batch_size)
            done = self._done(batches, share if batch_size == 1 else lambda: 1)
            for number, (batch, encoded) in enumerate(done):
                # PyAV's frames whose side data was looked at refer to themselves. Those that Python's own collections
                # find alive are kept for hours: megabytes each.
                if number % _COLLECT_EVERY == 0:
                    gc.collect()
                largest_change = max(largest_change, *(_change(window) for window in batch))
                for rgb, motion in encoded.frames:
                    sink.append(rgb, motion)
                self.seconds["flow"] += encoded.flow_seconds
                self.seconds["encode"] += encoded.seconds
                on_progress(reader.num_nominal_frames)
            if largest_change <= _MOTIONLESS_LEVELS:
                raise VideoError("motionless", f"no pixel changes by more than {largest_change} gray levels")
            assert scaler.size is not None
            return EncodedVideo(
                width=scaler.size[0],
                height=scaler.size[1],
                source_fps=reader.source_fps,
                num_source_frames=reader.num_source_frames,
                num_nominal_frames=reader.num_nominal_frames,
                note=reader.notes(),
            )

    def _batches(self, windows: "Iterator[GridFrame]", size: int) -> "Iterator[list[GridFrame]]":
        """The windows in batches; a flow that takes batches works while a thread decodes the next ones."""

        def timed() -> Iterator[list[GridFrame]]:
            while True:
                began = time.perf_counter()
                batch = list(itertools.islice(windows, size))
                self.seconds["decode"] += time.perf_counter() - began
                if not batch:
                    return
                yield batch

        return ahead(timed()) if size > 1 else timed()

    def _done(
        self, batches: "Iterator[list[GridFrame]]", share: Callable[[], int]
    ) -> "Iterator[tuple[list[GridFrame], _Encoded]]":
        """The batches with what they come to, in order, computed by so many threads while the next are decoded."""
        pending: deque[tuple[list[GridFrame], Future[_Encoded]]] = deque()
        with ThreadPoolExecutor(_MOST_THREADS) as threads:
            for batch in batches:
                num_threads = min(share(), _MOST_THREADS)
                if num_threads > 1:
                    pending.append((batch, threads.submit(self._encoded, batch)))
                while len(pending) >= (num_threads if num_threads > 1 else 1):
                    earlier, future = pending.popleft()
                    yield earlier, future.result()
                if num_threads == 1:
                    yield batch, self._encoded(batch)
            for earlier, future in pending:
                yield earlier, future.result()

    def _encoded(self, batch: list[GridFrame]) -> "_Encoded":
        flows: Flow | None = None
        began = time.perf_counter()
        if self._flow is not None:
            flows = self._flow([w.frame.bgr for w in batch], [w.reference.bgr for w in batch])
        elif self._codec_motion:
            flows = np.stack([dense_flow(w.way, w.frame.gray) for w in batch if w.way is not None])
        computed = time.perf_counter()
        frames = self._jpegs(batch, flows)
        return _Encoded(frames, computed - began, time.perf_counter() - computed)

    def _jpegs(self, batch: list[GridFrame], flows: "Flow | None") -> "list[_Jpegs]":
        grays, neighbours = [w.frame.gray for w in batch], [w.neighbour.gray for w in batch]
        motion_maps = self._motion(FramePairs(grays, neighbours, flows, [w.is_later for w in batch]))
        return [
            (
                self._jpeg(window.frame.bgr),
                {name: ([self._jpeg(one) for one in pixels], score) for name, (pixels, score) in maps.items()},
            )
            for window, maps in zip(batch, motion_maps, strict=True)
        ]

    def _jpeg(self, pixels: np.ndarray) -> bytes:
        done, jpeg = cv2.imencode(".jpg", pixels, self._jpeg_options)
        assert done
        return jpeg.tobytes()


class _Loader:
    """Scales a decoded frame; one that is on show for several nominal frames is scaled once."""

    def __init__(self, scaler: FrameScaler, reader: VideoReader) -> None:
        self._scaler = scaler
        self._reader = reader if isinstance(reader, MotionReader) else None
        self._source: av.VideoFrame | None = None
        self._frame: Frame | None = None

    def __call__(self, source: av.VideoFrame) -> Frame:
        if source is not self._source or self._frame is None:
            bgr = self._scaler(source)
            number = self._reader.number(source) if self._reader is not None else 0
            self._source, self._frame = source, Frame(bgr, to_gray(bgr), number)
        return self._frame


def grid_windows(
    nominal: Iterator[tuple[int, av.VideoFrame]], load: Callable[[av.VideoFrame], Frame], grid: int
) -> Iterator[GridFrame]:
    """The grid frames of a video with their references, in order, holding 11 small frames at a time.

    Only the nominal frames that some window needs are loaded: with a grid of 4, two of four.
    """
    ring: dict[int, Frame] = {}
    number = -1
    for number, source in nominal:
        if _is_needed(number, grid):
            ring[number] = load(source)
        # A window is given out when its later reference has come, so that the order is kept from the start.
        time = number - FLOW_SPAN
        if time >= 0 and time % grid == 0:
            yield _window(ring, time)
        ring.pop(number - 2 * FLOW_SPAN, None)
    for time in range(max(0, number - FLOW_SPAN + 1), number + 1):
        if time % grid == 0:
            yield _window(ring, time)


def _with_ways(windows: Iterator[GridFrame], reader: MotionReader, scaler: FrameScaler) -> Iterator[GridFrame]:
    """The same with the way that the codec's vectors lead from a frame to its reference."""
    for window in windows:
        first, last = window.frame.number, window.reference.number
        assert reader.grid is not None
        way = Way(reader.steps(first, last), window.is_later, reader.grid, scaler.orientation)
        if not window.is_later:
            reader.forget(last)  # the next windows refer to later frames
        yield window._replace(way=way)


def _is_needed(number: int, grid: int) -> bool:
    is_grid = number % grid == 0
    is_earlier = (number + FLOW_SPAN) % grid == 0 or (number + 1) % grid == 0
    is_later = FLOW_SPAN <= number < 2 * FLOW_SPAN and (number - FLOW_SPAN) % grid == 0
    return is_grid or is_earlier or is_later or number == 1


def _window(ring: dict[int, Frame], time: int) -> GridFrame:
    is_later = time < FLOW_SPAN
    reference = time + FLOW_SPAN if is_later else time - FLOW_SPAN
    return GridFrame(ring[time], ring[reference], ring[time - 1 if time else 1], is_later)


def _change(window: GridFrame) -> int:
    return int(cv2.absdiff(window.frame.gray, window.reference.gray).max())
