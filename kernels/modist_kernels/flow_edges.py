"""Flow edges (paper section 3.2): definition, custom op, public call.

    P = clamp( gain * |Sobel(m)| ), m = |flow|

on the plain 3x3 Sobel filter ([1, 2, 1] x [-1, 0, 1], no factor), and the mean of P as the motion score.
"""

from typing import Literal

import torch
from torch import Tensor

from modist_kernels.dispatch import choose_backend

Layout = Literal["chw", "hwc"]
Border = Literal["replicate", "zero"]
INPUT_DTYPES = (torch.float16, torch.float32, torch.int16)
OUTPUT_DTYPES = (torch.uint8, torch.float16, torch.float32)


# ---- Definition


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
    _check(flow, layout, gain, border, clamp, out_dtype, (*INPUT_DTYPES, torch.float64))
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


# ---- Custom op, so that torch.compile keeps the graph whole


def _run(
    flow: Tensor,
    layout: str,
    gain: float,
    border: str,
    clamp: float,
    scale: float,
    out_dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return edges (..., H, W) and scores (...)."""
    if backend == "triton":
        from modist_kernels.flow_edges_triton import forward
    else:
        from modist_kernels.flow_edges_cpu import forward
    return forward(flow, layout, gain, border, clamp, scale, out_dtype)


_flow_edges = torch.library.custom_op("modist::flow_edges", _run, mutates_args=())


@_flow_edges.register_fake
def _(flow, layout, gain, border, clamp, scale, out_dtype, backend):
    leading = flow.shape[:-3]
    size = flow.shape[-3:-1] if layout == "hwc" else flow.shape[-2:]
    return flow.new_empty(*leading, *size, dtype=out_dtype), flow.new_empty(leading, dtype=torch.float32)


# ---- Public call


def flow_edges(
    flow: Tensor,
    *,
    layout: Layout = "chw",
    gain: float = 1.0,
    border: Border = "replicate",
    clamp: float = 10.0,
    scale: float = 1.0,
    out_dtype: torch.dtype = torch.uint8,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn optical flow into edge maps and their motion scores, in one pass. No gradient.

    Args:
        flow: (..., 2, H, W) for layout "chw" or (..., H, W, 2) for "hwc"; float16, float32 or int16, finite;
            times `scale`, in pixels per 5 frames.
        layout: see flow.
        gain: factor on the plain Sobel magnitude (kornia's normalized filter is 0.125, OpenCV's is 1).
        border: what the filter sees beyond the frame: its nearest pixel ("replicate"), or magnitude 0 ("zero").
        clamp: upper end of P.
        scale: what one unit of `flow` is, in pixels per 5 frames (1/64 for int16 in 1/64 pixels).
        out_dtype: uint8 for P / clamp * 255 rounded to nearest, even on ties; float16 or float32 for P.
        backend: one of `BACKENDS` to force an implementation; by default Triton on CUDA, "cpu" on the CPU.

    Returns:
        edges (..., H, W) in `out_dtype`, and score (...) float32, the mean of P before rounding.

    Raises:
        ValueError: shapes, types or options that do not fit, or a backend that does not run here.
    """
    chosen = choose_backend("flow_edges", flow.device, backend)
    if chosen == "reference":
        return flow_edges_reference(
            flow, layout=layout, gain=gain, border=border, clamp=clamp, scale=scale, out_dtype=out_dtype
        )
    _check(flow, layout, gain, border, clamp, out_dtype, INPUT_DTYPES)
    # Outside of a compiled graph the op would add nothing but its dispatch, a third of the time of a small frame.
    run = _flow_edges if torch.compiler.is_compiling() else _run
    return run(flow.detach(), layout, gain, border, clamp, scale, out_dtype, chosen)


def _check(
    flow: Tensor,
    layout: str,
    gain: float,
    border: str,
    clamp: float,
    out_dtype: torch.dtype,
    input_dtypes: tuple[torch.dtype, ...],
) -> None:
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
