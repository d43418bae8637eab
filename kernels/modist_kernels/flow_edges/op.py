"""Flow edges: custom op, public call. `definition.py` says what is computed."""

import torch
from torch import Tensor

from modist_kernels.dispatch import choose_backend
from modist_kernels.flow_edges.definition import INPUT_DTYPES, Border, Layout, check, flow_edges_reference

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
        from modist_kernels.flow_edges.kernels import forward
    else:
        from modist_kernels.flow_edges.cpu import forward
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
    check(flow, layout, gain, border, clamp, out_dtype, INPUT_DTYPES)
    # Outside of a compiled graph the op would add nothing but its dispatch, a third of the time of a small frame.
    run = _flow_edges if torch.compiler.is_compiling() else _run
    return run(flow.detach(), layout, gain, border, clamp, scale, out_dtype, chosen)
