"""The CPU path of flow_edges: the Sobel magnitude in four passes of one addition each.

With b the sums of m over 2x2 blocks, the plain Sobel filters obey

    gx + gy = 2 (b_lower_right - b_upper_left),   gx - gy = 2 (b_upper_right - b_lower_left)

so |Sobel| = √2 |(b_lower_right - b_upper_left, b_upper_right - b_lower_left)|: two passes make b, two the
differences, where a pair of separable Sobel filters takes six. Rows are laid end to end, so that every pass is one
vector addition; what wraps around falls into two columns that are cut off.
"""

import math
import threading

import cv2
import numpy as np
import torch
from torch import Tensor

# Scratch rows of the last frame size, kept by thread: fresh pages would cost as much as two passes.
_scratch = threading.local()
_BORDER = {"replicate": cv2.BORDER_REPLICATE, "zero": cv2.BORDER_CONSTANT}


def forward(
    flow: Tensor, layout: str, gain: float, border: str, clamp: float, scale: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `modist::flow_edges`."""
    leading = flow.shape[:-3]
    frames = flow.reshape(-1, *flow.shape[-3:])
    height, width = frames.shape[1:3] if layout == "hwc" else frames.shape[2:4]
    edges = torch.empty(len(frames), height, width, dtype=out_dtype)
    score = torch.empty(len(frames))
    factor = math.sqrt(2) * gain * abs(scale)
    work = _workspace((height + 2) * (width + 2))
    for i, frame in enumerate(frames):
        magnitude = _magnitude(frame.to(torch.float32).contiguous().numpy(), layout)
        unit = _sobel(magnitude, _BORDER[border], work)
        cv2.threshold(unit, clamp / factor, 0, cv2.THRESH_TRUNC, unit)
        score[i] = cv2.sumElems(unit)[0] * factor / (height * width)
        if out_dtype == torch.uint8:
            stored = torch.from_numpy(cv2.convertScaleAbs(unit, alpha=factor / clamp * 255))
        else:
            stored = torch.from_numpy(unit * np.float32(factor))
        edges[i] = stored[:, :width]
    return edges.reshape(*leading, height, width), score.reshape(leading)


def _workspace(size: int) -> np.ndarray:
    if getattr(_scratch, "size", None) != size:
        _scratch.size, _scratch.rows = size, np.empty((4, size), np.float32)
    return _scratch.rows


def _magnitude(vectors: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hwc":
        return np.abs(vectors.view(np.complex64)[..., 0])
    return cv2.magnitude(vectors[0], vectors[1])


def _sobel(magnitude: np.ndarray, border: int, work: np.ndarray) -> np.ndarray:
    """Return |Sobel| / √2 in the first columns of (H, W + 2) float32; the last two are 0."""
    height, width = magnitude.shape
    stride = width + 2
    padded, pairs, blocks, result = work
    cv2.copyMakeBorder(magnitude, 1, 1, 1, 1, border, padded.reshape(height + 2, stride))
    pairs, blocks = pairs[: (height + 1) * stride], blocks[: (height + 1) * stride]
    np.add(padded[:-stride], padded[stride:], out=pairs)
    np.add(pairs[:-1], pairs[1:], out=blocks[:-1])
    num = height * stride - 1
    down, up = padded[:num], result[:num]  # the padded magnitudes have served
    np.subtract(blocks[stride + 1 :], blocks[:num], out=down)
    np.subtract(blocks[1 : num + 1], blocks[stride:-1], out=up)
    unit = cv2.magnitude(padded[: num + 1].reshape(height, stride), result[: num + 1].reshape(height, stride))
    unit[:, width:] = 0
    return unit
