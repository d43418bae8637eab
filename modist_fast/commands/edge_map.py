"""The flow edges that `prepare` hands to its workers, which import them by name: the data plane knows no kernels."""

from typing import Literal

import numpy as np
import torch

from modist_kernels import flow_edges
from modist_pipelines.prepare.flow import Flow


def edge_map(
    flow: Flow, *, gain: float, border: Literal["replicate", "zero"], clamp: float
) -> tuple[np.ndarray, float]:
    """Flow edges of one flow field (paper section 3.2).

    Args:
        flow: (H, W, 2) float32, pixels per 5 frames; the edges are taken where it lies.
        gain: factor on the plain 3x3 Sobel filter.
        border: what the filter sees beyond the frame.
        clamp: upper end of P.

    Returns:
        (H, W) uint8, P / clamp * 255 rounded; and the mean of P.
    """
    edges, score = flow_edges(torch.as_tensor(flow), layout="hwc", gain=gain, border=border, clamp=clamp)
    return edges.numpy(force=True), float(score)
