"""From the vectors of frames to steps: where each cell of a frame was in the frame shown before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from modist_pipelines.codec_motion.order import PacketOrder, Shown
from modist_pipelines.codec_motion.vectors import Distances, Grid, paint, usable, vectors_of

_MOST_HELD = 32  # frames that wait for one that refers to none of the future


@dataclass
class Counts:
    """How much of the motion was there, and how much was filled in."""

    frames: int = 0
    """That have a frame before them."""
    frames_without: int = 0
    """Of which no vector came: key frames, and those of codecs that FFmpeg exports none of."""
    cells: int = 0
    """Of the frames with vectors."""
    cells_without: int = 0
    """Of them, in blocks that are coded without motion."""

    def __str__(self) -> str:
        blocks = 100 * self.cells_without / max(1, self.cells)
        return (
            f"{self.frames_without:,} of {self.frames:,} frames held none, nor {blocks:.1f} % of the blocks of the "
            "others; filled in from their neighbours in time"
        )


class Step(NamedTuple):
    """A frame, and how it moved."""

    frame: av.VideoFrame
    cells: np.ndarray
    """(rows, columns, 2) float32: where each cell was in the frame before, x and y in cells."""


class _Held(NamedTuple):
    frame: av.VideoFrame
    shown: Shown
    vectors: np.ndarray | None


class _Painted(NamedTuple):
    frame: av.VideoFrame
    cells: np.ndarray
    """(rows, columns, 3): x and y in cells of the first frame's grid, and the weight; x and y are 0 where it is."""


class StepMaker:
    """Takes frames in the order in which they are shown, gives them back with their steps, some frames later.

    The vectors of a frame are divided by the distance of their reference. A block of a B frame that has none goes as
    the next P frame says, which passes over it. Each step is averaged with those of its neighbours, and so what is
    coded without motion (key frames, blocks of new content) takes theirs; where they have none either, the last there
    was.
    """

    def __init__(self, order: PacketOrder, decoder: str) -> None:
        """
        Args:
            order: has noted the packets of the frames.
            decoder: FFmpeg's name of it.
        """
        self.counts = Counts()
        self._order, self._decoder = order, decoder
        self._held: list[_Held] = []
        self._grid: Grid | None = None
        self._before: np.ndarray | None = None
        self._waiting: _Painted | None = None
        self._last: np.ndarray | None = None

    def add(self, frame: av.VideoFrame) -> Iterator[Step]:
        """The next frame shown."""
        self._held.append(_Held(frame, self._order.shown(frame), vectors_of(frame)))
        if frame.pict_type != PictureType.B or len(self._held) >= _MOST_HELD:
            yield from self._release()

    def end(self) -> Iterator[Step]:
        """What is left when the last frame was added."""
        yield from self._release()
        if self._waiting is not None:
            yield self._smoothed(self._waiting, None)
            self._waiting = None

    def _release(self) -> Iterator[Step]:
        held, self._held = self._held, []
        for painted in self._painted(held):
            if self._waiting is not None:
                yield self._smoothed(self._waiting, painted.cells)
                self._before = self._waiting.cells
            self._waiting = painted

    def _painted(self, held: list[_Held]) -> "list[_Painted]":
        is_first = self._grid is None
        done = [
            _Painted(one.frame, self._cells(one, distances))
            for one, distances in zip(held, self._order.distances([one.shown for one in held]), strict=True)
        ]
        passes_over = bool(held) and held[-1].frame.pict_type == PictureType.P
        for one, painted in zip(held[is_first:], done[is_first:], strict=True):
            if passes_over:
                missing = painted.cells[..., 2] == 0
                painted.cells[missing] = done[-1].cells[missing]
            self._count(one, painted.cells)
        return done

    def _cells(self, one: _Held, distances: Distances) -> np.ndarray:
        grid = Grid(one.frame.width, one.frame.height)
        self._grid = self._grid or grid
        vectors = one.vectors
        if vectors is not None:
            vectors = usable(vectors, self._decoder, one.frame.pict_type == PictureType.B)
        cells = paint(vectors, distances, grid)
        if grid != self._grid:  # the stream has changed its resolution: steps are in cells of its first one
            rows, columns = self._grid.shape
            cells = cv2.resize(cells, (columns, rows), interpolation=cv2.INTER_NEAREST)
            cells[..., 0] *= self._grid.width / grid.width
            cells[..., 1] *= self._grid.height / grid.height
        return cells

    def _count(self, one: _Held, cells: np.ndarray) -> None:
        self.counts.frames += 1
        if one.vectors is None or not len(one.vectors):
            self.counts.frames_without += 1
        else:
            self.counts.cells += cells[..., 2].size
            self.counts.cells_without += int((cells[..., 2] == 0).sum())

    def _smoothed(self, painted: "_Painted", after: np.ndarray | None) -> Step:
        near = [cells for cells in (self._before, painted.cells, after) if cells is not None]
        total = sum(near[1:], near[0])  # where no vector is, all three are 0
        weight = total[..., 2:]
        step = total[..., :2] / np.maximum(weight, 1)
        if self._last is not None:
            np.copyto(step, self._last, where=weight == 0)
        self._last = step
        return Step(painted.frame, step)
