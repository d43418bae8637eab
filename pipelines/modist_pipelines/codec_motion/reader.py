"""Reading a video with the motion vectors that its stream holds."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags2

from modist_pipelines.codec_motion.account import describe
from modist_pipelines.codec_motion.order import PacketOrder
from modist_pipelines.codec_motion.steps import Step, StepMaker
from modist_pipelines.codec_motion.vectors import EXPORTING, Grid
from modist_pipelines.video.reader import VideoError, VideoReader

# A stream that has shown so many frames without a vector will not show any.
_PATIENCE = 32
_MOST_WITHOUT = 0.5  # of the frames; with more, the motion would be made up
_RECENT = 4  # frames given out that may still be asked for


class MotionReader(VideoReader):
    """A `VideoReader` that keeps the steps of the frames it gives out, until they are passed.

    Frames come a little later than they do without, since the motion of a B frame is known once the P frame after it
    is.
    """

    def __init__(self, path: Path, frames_fps: float = 30.0) -> None:
        """
        Raises:
            VideoError: as those of `VideoReader`, or no_motion_vectors.
        """
        self._steps: dict[int, np.ndarray] = {}
        self._recent: deque[tuple[av.VideoFrame, int]] = deque(maxlen=_RECENT)
        self._num_given = 0
        self.grid: Grid | None = None
        """Of the steps, known after the first frame."""
        super().__init__(path, frames_fps)

    def _look(self) -> None:
        super()._look()
        if self._is_pictures:
            raise VideoError("no_motion_vectors", "a folder of pictures; prepare it with --flow dis")
        context = self.stream.codec_context
        context.flags2 |= Flags2.export_mvs
        self._order = PacketOrder(context)
        self._maker = StepMaker(self._order, context.name)

    def number(self, frame: av.VideoFrame) -> int:
        """Of a frame that was given out just now, counted from 0."""
        return next(number for given, number in reversed(self._recent) if given is frame)

    def steps(self, first: int, last: int) -> list[np.ndarray]:
        """The steps that lead from one frame to another, in that order: as `dense_flow` takes them."""
        if last <= first:
            return [self._steps[number] for number in range(first, last, -1)]
        return [self._steps[number] for number in range(first + 1, last + 1)]

    def forget(self, number: int) -> None:
        """Drop the steps of a frame and of those before it."""
        for passed in [known for known in self._steps if known <= number]:
            del self._steps[passed]

    def notes(self) -> str | None:
        return ", ".join(filter(None, (super().notes(), describe(self._maker.counts)))) or None

    def decoded_frames(self) -> Iterator[av.VideoFrame]:
        for frame in super().decoded_frames():
            yield from self._given(self._maker.add(frame))
            counts = self._maker.counts
            if counts.frames == counts.frames_without >= _PATIENCE:
                raise VideoError("no_motion_vectors", self._why_none())
        yield from self._given(self._maker.end())

    def _given(self, steps: Iterator[Step]) -> Iterator[av.VideoFrame]:
        for frame, cells in steps:
            self.grid = self.grid or Grid(frame.width, frame.height)
            self._steps[self._num_given] = cells
            self._recent.append((frame, self._num_given))
            self._num_given += 1
            yield frame

    def _saw(self, packet: av.Packet) -> None:
        super()._saw(packet)
        self._order.note(packet)

    def _check(self) -> None:
        super()._check()
        counts = self._maker.counts
        if counts.frames_without > _MOST_WITHOUT * counts.frames:
            raise VideoError("no_motion_vectors", self._why_none())

    def _why_none(self) -> str:
        counts, codec = self._maker.counts, self.stream.codec_context
        if codec.name in EXPORTING:
            why = f"{counts.frames_without} of {counts.frames} frames hold no motion vectors, as key frames do"
        else:
            why = f"FFmpeg exports no motion vectors of this codec (but of {', '.join(sorted(EXPORTING))})"
        return f"{codec.codec.canonical_name}: {why}; prepare it with --flow dis"
