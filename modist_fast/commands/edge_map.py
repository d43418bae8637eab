"""The flow edges that `prepare` hands to its workers, which import them by name: the data plane knows no kernels."""

from typing import Literal

import numpy as np
import torch

from modist_kernels import flow_edges
from modist_pipelines.prepare.flow import Flow


def edge_map(
    flows: Flow, *, gain: float, border: Literal["replicate", "zero"], clamp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Flow edges of a batch of flow fields (paper section 3.2), in one call and with one copy to the host.

    Args:
        flows: (N, H, W, 2) float32, pixels per 5 frames; the edges are taken where it lies.
        gain: factor on the plain 3x3 Sobel filter.
        border: what the filter sees beyond the frame.
        clamp: upper end of P.

    Returns:
        (N, H, W) uint8, P / clamp * 255 rounded; and (N,) float32, the mean of each P.
    """
    edges, means = flow_edges(torch.as_tensor(flows), layout="hwc", gain=gain, border=border, clamp=clamp)
    if edges.device.type == "cpu":
        return edges.numpy(), means.numpy()
    together = torch.cat([means.view(torch.uint8), edges.flatten()]).numpy(force=True)
    bytes_of_means = len(means) * means.element_size()
    return together[bytes_of_means:].reshape(edges.shape), together[:bytes_of_means].view(np.float32)
