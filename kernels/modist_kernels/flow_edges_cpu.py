"""The CPU path of flow_edges."""

import torch
from torch import Tensor

from modist_kernels.flow_edges import flow_edges_reference


def forward(
    flow: Tensor, layout: str, gain: float, border: str, clamp: float, scale: float, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `modist::flow_edges`."""
    return flow_edges_reference(
        flow, layout=layout, gain=gain, border=border, clamp=clamp, scale=scale, out_dtype=out_dtype
    )  # pyright: ignore[reportArgumentType]
