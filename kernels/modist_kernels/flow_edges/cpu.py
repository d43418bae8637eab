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
    quantize = out_dtype == torch.uint8
    edges = np.empty((len(frames), height, width), np.uint8 if quantize else np.float32)
    score = np.empty(len(frames), np.float32)
    factor = math.sqrt(2) * gain * abs(scale)
    work = _workspace((height + 2) * (width + 2))
    frames = frames.contiguous()
    vectors = frames.numpy()
    for i in range(len(frames)):
        frame = vectors[i] if frames.dtype == torch.float32 else frames[i].to(torch.float32).numpy()
        unit = _sobel(frame, layout, _BORDER[border], work)
        cv2.threshold(unit, clamp / factor, 0, cv2.THRESH_TRUNC, unit)
        score[i] = cv2.sumElems(unit)[0] * factor / (height * width)
        if quantize:
            cv2.convertScaleAbs(unit[:, :width], edges[i], factor / clamp * 255)
        else:
            np.multiply(unit[:, :width], np.float32(factor), out=edges[i])
    return (
        torch.from_numpy(edges).to(out_dtype).reshape(*leading, height, width),
        torch.from_numpy(score).reshape(leading),
    )


def _workspace(size: int) -> np.ndarray:
    if getattr(_scratch, "size", None) != size:
        _scratch.size, _scratch.rows = size, np.empty((3, size), np.float32)
    return _scratch.rows


def _sobel(vectors: np.ndarray, layout: str, border: int, work: np.ndarray) -> np.ndarray:
    """Return |Sobel| / √2 of |vectors| in the first columns of (H, W + 2) float32; the last two are 0.

    The three rows of `work` are used over and over, so that they and the flow fit a core's second-level cache.
    """
    height, width = vectors.shape[:2] if layout == "hwc" else vectors.shape[1:]
    stride = width + 2
    padded, pairs, blocks = work
    magnitude = blocks[: height * width].reshape(height, width)
    if layout == "hwc":
        np.abs(vectors.view(np.complex64)[..., 0], out=magnitude)
    else:
        cv2.magnitude(vectors[0], vectors[1], magnitude)
    cv2.copyMakeBorder(magnitude, 1, 1, 1, 1, border, padded.reshape(height + 2, stride))
    num = (height + 1) * stride
    np.add(padded[:num], padded[stride:], out=pairs[:num])
    np.add(pairs[: num - 1], pairs[1:num], out=blocks[: num - 1])
    num -= stride
    down, up = padded[:num], pairs[:num]
    np.subtract(blocks[stride + 1 : stride + num], blocks[: num - 1], out=down[:-1])
    np.subtract(blocks[1:num], blocks[stride : stride + num - 1], out=up[:-1])
    unit = down.reshape(height, stride)
    cv2.magnitude(unit, up.reshape(height, stride), unit)
    unit[:, width:] = 0
    return unit
