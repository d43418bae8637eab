"""Flow edges (paper section 3.2): what is computed, and from what.

    P = clamp( gain * |Sobel(m)| ), m = |flow|

on the plain 3x3 Sobel filter ([1, 2, 1] x [-1, 0, 1], no factor), and the mean of P as the motion score.
"""

from typing import Literal

import torch
from torch import Tensor

Layout = Literal["chw", "hwc"]
Border = Literal["replicate", "zero"]
INPUT_DTYPES = (torch.float16, torch.float32, torch.int16)
OUTPUT_DTYPES = (torch.uint8, torch.float16, torch.float32)


def flow_edges_reference(
    flow: Tensor,
    *,
    layout: Layout = "chw",
    gain: float = 1.0,
    border: Border = "replicate",
    clamp: float = 10.0,
    scale: float = 1.0,
    out_dtype: torch.dtype = torch.uint8,
) -> tuple[Tensor, Tensor]:
    """Compute what `flow_edges` computes in plain torch, one step after another (float64 for float64 flow)."""
    check(flow, layout, gain, border, clamp, out_dtype, (*INPUT_DTYPES, torch.float64))
    vectors = flow.movedim(-1, -3) if layout == "hwc" else flow
    vectors = vectors.to(torch.float64 if flow.dtype == torch.float64 else torch.float32) * scale
    height, width = vectors.shape[-2:]
    magnitude = vectors.square().sum(dim=-3).sqrt().reshape(-1, 1, height, width)
    padded = torch.nn.functional.pad(magnitude, (1, 1, 1, 1), mode="replicate" if border == "replicate" else "constant")
    sobel_x = padded.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    gradient = torch.nn.functional.conv2d(padded, torch.stack([sobel_x, sobel_x.T])[:, None])  # (K, 2, H, W)
    edges = (gradient.square().sum(dim=1).sqrt() * gain).clamp(max=clamp)
    score = edges.mean(dim=(-2, -1))
    stored = (edges / clamp * 255).round().to(torch.uint8) if out_dtype == torch.uint8 else edges.to(out_dtype)
    leading = vectors.shape[:-3]
    return stored.reshape(*leading, height, width), score.reshape(leading)


def check(
    flow: Tensor,
    layout: str,
    gain: float,
    border: str,
    clamp: float,
    out_dtype: torch.dtype,
    input_dtypes: tuple[torch.dtype, ...],
) -> None:
    """
    Raises:
        ValueError: shapes, types or options that do not fit; the message names the argument.
    """

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"flow_edges: {message}")

    require(layout in ("chw", "hwc"), f"layout must be 'chw' or 'hwc', and is {layout!r}")
    shape = tuple(flow.shape)
    form = "(..., H, W, 2)" if layout == "hwc" else "(..., 2, H, W)"
    channels = -1 if layout == "hwc" else -3
    require(
        len(shape) >= 3 and shape[channels] == 2,
        f"with layout {layout!r} flow must be {form}, and is {shape}",
    )
    require(0 not in shape[-3:], f"flow has no pixels: {shape}")
    require(flow.dtype in input_dtypes, f"flow must be float16, float32 or int16, and is {flow.dtype}")
    require(out_dtype in OUTPUT_DTYPES, f"out_dtype must be uint8, float16 or float32, and is {out_dtype}")
    require(border in ("replicate", "zero"), f"border must be 'replicate' or 'zero', and is {border!r}")
    require(gain > 0 and clamp > 0, f"gain and clamp must be positive, and are {gain} and {clamp}")
