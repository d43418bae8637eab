"""The motion vectors that come with a decoded frame, painted on a grid of cells."""

from typing import NamedTuple

import av
import numpy as np

# FFmpeg gives the vectors of blocks of 8 or 16 pixels; of smaller ones, that of the 8 that they are in.
CELL = 8  # source pixels
_MARGIN = 1  # macroblocks

EXPORTING = frozenset(
    "h264 mpeg4 mpeg1video mpeg2video h263 h263p flv msmpeg4v2 msmpeg4 wmv1 wmv2 rv10 rv20".split()  # noqa: SIM905
)
"""Decoders of FFmpeg that were seen to export their vectors. HEVC, VP8, VP9 and AV1 export none."""

# Of B frames of MPEG-4 part 2 FFmpeg gives zeros where a block goes as the next P frame says ("direct"), which most do.
_ZERO_IS_UNKNOWN = frozenset(("mpeg4",))


class Distances(NamedTuple):
    """Frames, as they are shown, from a frame to those that its vectors lead to."""

    past: int = 1
    future: int = 1


class Grid(NamedTuple):
    """The cells of a frame."""

    width: int
    height: int
    """Of the frame, in pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns); the last ones may stand out."""
        return -(-self.height // CELL), -(-self.width // CELL)


def vectors_of(frame: av.VideoFrame) -> np.ndarray | None:
    """FFmpeg's AVMotionVector records of a frame; None where it has none."""
    data = frame.side_data.get("MOTION_VECTORS")  # type: ignore[call-overload]
    return None if data is None else data.to_ndarray()  # type: ignore[attr-defined]


def usable(vectors: np.ndarray, decoder: str, is_bidirectional: bool) -> np.ndarray:
    """Without those that say nothing."""
    if decoder in _ZERO_IS_UNKNOWN and is_bidirectional:
        return vectors[(vectors["motion_x"] != 0) | (vectors["motion_y"] != 0)]
    return vectors


def paint(vectors: np.ndarray | None, distances: Distances, grid: Grid) -> np.ndarray:
    """Where each cell was in the frame before, as if it moved evenly between a frame and its reference.

    Args:
        vectors: records; None where there are none.
        distances: to the references.
        grid: of the frame.

    Returns:
        (rows, columns, 3) float32: x and y in cells, and the weight: 1, or 0 where no vector is.
    """
    rows, columns = grid.shape
    # Whole macroblocks, two cells wide, and a margin: a block of the coded frame may lie beyond the picture.
    total = np.zeros((2 * (rows // 2 + 1 + 2 * _MARGIN), 2 * (columns // 2 + 1 + 2 * _MARGIN), 3), np.float32)
    inner = total[2 * _MARGIN :, 2 * _MARGIN :][:rows, :columns]
    if vectors is None or not len(vectors):
        return inner
    is_past = vectors["source"] < 0
    # A vector to a frame that is yet to come points ahead.
    for chosen, frames in ((is_past, distances.past), (~is_past, -distances.future)):
        if chosen.any():
            _paint_side(total, vectors if chosen.all() else vectors[chosen], frames)
    inner[..., :2] /= np.maximum(inner[..., 2:], 1)
    np.minimum(inner[..., 2], 1, out=inner[..., 2])
    return inner


def _paint_side(total: np.ndarray, vectors: np.ndarray, frames: int) -> None:
    """Add the velocities of vectors to the past or to the future, which do not overlap, and 1."""
    values = np.ones((len(vectors), 3), np.float32)
    scale = vectors["motion_scale"].astype(np.float32) * (frames * CELL)
    values[:, 0] = vectors["motion_x"] / scale
    values[:, 1] = vectors["motion_y"] / scale
    width, height = vectors["w"].astype(np.intp), vectors["h"].astype(np.intp)
    left = vectors["dst_x"] - width // 2 + 2 * _MARGIN * CELL
    top = vectors["dst_y"] - height // 2 + 2 * _MARGIN * CELL
    rows, columns = total.shape[:2]
    is_whole = (width == 2 * CELL) & (height == 2 * CELL)
    # Most blocks are whole macroblocks: painted once each, then each pixel of that picture is two by two cells.
    whole = np.zeros((rows // 2, columns // 2, 3), np.float32)
    _put(whole, top[is_whole] // (2 * CELL), left[is_whole] // (2 * CELL), values[is_whole])
    total.reshape(rows // 2, 2, columns // 2, 2, 3)[...] += whole[:, None, :, None]
    if is_whole.all():
        return
    part = ~is_whole
    values, width, height, left, top = (array[part] for array in (values, width, height, left, top))
    painted = np.zeros_like(total)
    for row in range(max(1, int(height.max()) // CELL)):
        for column in range(max(1, int(width.max()) // CELL)):
            covers = (row * CELL < height) & (column * CELL < width)
            _put(painted, top[covers] // CELL + row, left[covers] // CELL + column, values[covers])
    total += painted


def _put(picture: np.ndarray, y: np.ndarray, x: np.ndarray, values: np.ndarray) -> None:
    rows, columns = picture.shape[:2]
    picture.reshape(-1, 3)[np.clip(y, 0, rows - 1) * columns + np.clip(x, 0, columns - 1)] = values
