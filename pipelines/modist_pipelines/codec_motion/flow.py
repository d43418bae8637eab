"""From steps between neighbouring frames to the flow over several: followed, smoothed, brought to the stored size."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from modist_pipelines.codec_motion.vectors import CELL, Grid
from modist_pipelines.video.picture import Orientation

# Gray levels a pixel, of a quarter of a cell: a cell with half as strong a gradient counts half.
_TEXTURE = 8.0
_SIGMA = 1.0  # cells
# As much of no motion is mixed in as a cell of so little texture would bring.
_STILL = 0.05
_PER_CELL = 4  # pixels along a cell that its texture is looked at in


class Way(NamedTuple):
    """From a frame to one before or after it."""

    steps: Sequence[np.ndarray]
    """(rows, columns, 2) each, in the order in which they lead away: of the frame itself, the one before it ...; or of
    the frame after it, the one after that ..."""
    is_later: bool
    """The latter."""
    grid: Grid
    """That the steps are on."""
    orientation: Orientation
    """How the file's frames were turned."""


def dense_flow(way: Way, gray: np.ndarray) -> np.ndarray:
    """The flow of a frame to one some frames before or after it.

    Args:
        way: that its cells went.
        gray: (H, W) uint8: the frame at the stored size, upright.

    Returns:
        (H, W, 2) float32: x and y in stored pixels.
    """
    grid, orientation = way.grid, way.orientation
    across, down = orientation.size(gray.shape[1], gray.shape[0])
    moved = _followed(way.steps, way.is_later, grid.shape)
    moved = _weighted(moved, _texture(orientation.turned_back(gray), grid.shape))
    rows, columns = grid.shape
    # The last cells stand out by as much as the frame's sides are no multiples of a cell.
    whole = (round(columns * CELL * across / grid.width), round(rows * CELL * down / grid.height))
    scale = np.array([across / grid.width * CELL, down / grid.height * CELL], np.float32)
    flow = cv2.resize(moved * scale, whole, interpolation=cv2.INTER_LINEAR)[:down, :across]
    return orientation.upright_field(flow)


def _followed(steps: Sequence[np.ndarray], is_later: bool, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns, 2): where each cell is in the end, each step looked up where the ones before it led."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    moved = np.zeros((*shape, 2), np.float32)
    for step in steps:
        found = _at(step, x + moved[..., 0], y + moved[..., 1])
        if is_later:
            # The step leads back: what it says is looked up again where it would have come from.
            ahead = moved - found
            found = -_at(step, x + ahead[..., 0], y + ahead[..., 1])
        moved = moved + found
    return moved


def _at(step: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(step, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _texture(gray: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) float32 in [0, 1): how far a cell's own vector can be trusted. On plain ground an encoder takes
    whatever vector is cheap."""
    rows, columns = shape
    small = cv2.resize(gray, (columns * _PER_CELL, rows * _PER_CELL), interpolation=cv2.INTER_AREA)
    gradients = [cv2.Sobel(small, cv2.CV_32F, dx, 1 - dx, scale=0.25) for dx in (0, 1)]
    energy = cv2.resize(
        cv2.multiply(gradients[0], gradients[0]) + cv2.multiply(gradients[1], gradients[1]),
        (columns, rows),
        interpolation=cv2.INTER_AREA,
    )
    return energy / (energy + _TEXTURE**2)


def _weighted(moved: np.ndarray, weight: np.ndarray) -> np.ndarray:
    total = cv2.GaussianBlur(moved * weight[..., None], (0, 0), _SIGMA)
    return total * (1 + _STILL) / (cv2.GaussianBlur(weight, (0, 0), _SIGMA) + _STILL)[..., None]
