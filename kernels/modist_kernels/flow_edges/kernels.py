"""The Triton kernel of flow_edges: rows stream through registers, each pixel is loaded and its root taken once.

Program (frame, strip) walks down its strip with the rows y-1, y and y+1 in registers; neighbours in x come by
exchange between lanes. With d = m[x+1] - m[x-1] and s = m[x-1] + 2 m[x] + m[x+1] of each row, Sobel is
gx = d[y-1] + 2 d[y] + d[y+1] and gy = s[y+1] - s[y-1].
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modist_kernels.configurations import EdgesConfiguration, architecture, edges_configuration
from modist_kernels.launch import launch

MIN_BLOCK_W = 256  # eight pixels a lane of one warp
MAX_WIDTH = 8192  # a row must fit one program
# Adding and taking away 1.5 * 2^23 rounds a float32 below 2^22 to the nearest integer, even on ties.
ROUND = tl.constexpr(12582912.0)


# ---- Kernel


@triton.jit
def _magnitudes(flow, y, height, width, INTERLEAVED: tl.constexpr, BLOCK_W: tl.constexpr):
    """|flow| of row y, in units of the input; 0 beyond the frame."""
    inside = (y >= 0) & (y < height)
    if INTERLEAVED:
        lanes = tl.arange(0, 2 * BLOCK_W)
        parts = tl.load(flow + y * width * 2 + lanes, mask=(lanes < 2 * width) & inside, other=0).to(tl.float32)
        return tl.sqrt(tl.sum(tl.reshape(parts * parts, (BLOCK_W, 2)), 1))
    else:  # noqa: RET505, a branch of the compiler
        x = tl.arange(0, BLOCK_W)
        mask = (x < width) & inside
        u = tl.load(flow + y * width + x, mask=mask, other=0).to(tl.float32)
        v = tl.load(flow + height * width + y * width + x, mask=mask, other=0).to(tl.float32)
        return tl.sqrt(u * u + v * v)


@triton.jit
def _octave(row, LANES: tl.constexpr):
    """Split (8 L,) into the first, second, ... eighth of every eight neighbours, (L,) each: registers, renamed."""
    even, odd = tl.split(tl.reshape(row, (LANES, 2, 2, 2)))
    e0, e1 = tl.split(even)
    o0, o1 = tl.split(odd)
    x0, x4 = tl.split(e0)
    x2, x6 = tl.split(e1)
    x1, x5 = tl.split(o0)
    x3, x7 = tl.split(o1)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _from_octave(x0, x1, x2, x3, x4, x5, x6, x7, LANES: tl.constexpr):
    even = tl.join(tl.join(x0, x4), tl.join(x2, x6))
    odd = tl.join(tl.join(x1, x5), tl.join(x3, x7))
    return tl.reshape(tl.join(even, odd), (LANES * 8,))


@triton.jit
def _row_filters(magnitude, width, REPLICATE: tl.constexpr, BLOCK_W: tl.constexpr):
    """Difference and smoothing of a row along x. A thread holds eight neighbours; two numbers cross lanes."""
    LANES: tl.constexpr = BLOCK_W // 8
    x0, x1, x2, x3, x4, x5, x6, x7 = _octave(magnitude, LANES)
    lane = tl.arange(0, LANES)
    before = tl.gather(x7, tl.maximum(lane - 1, 0), 0)
    after = tl.gather(x0, tl.minimum(lane + 1, LANES - 1), 0)
    left = _from_octave(before, x0, x1, x2, x3, x4, x5, x6, LANES)
    right = _from_octave(x1, x2, x3, x4, x5, x6, x7, after, LANES)
    x = tl.arange(0, BLOCK_W)
    edge = magnitude if REPLICATE else tl.zeros_like(magnitude)
    left = tl.where(x > 0, left, edge)
    right = tl.where(x < width - 1, right, edge)
    return right - left, left + 2.0 * magnitude + right


@triton.jit(do_not_specialize=["height", "rows_per_strip"])
def edges_kernel(
    flow,  # (K, 2, H, W), or (K, H, W, 2) if INTERLEAVED
    edges,  # (K, H, W)
    strip_sums,  # (K, number of strips) float32
    height,
    width,
    rows_per_strip,
    factor,  # gain and scale of the flow in one
    clamp,
    levels,  # 255 / clamp
    INTERLEAVED: tl.constexpr,
    REPLICATE: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    frame, strip = tl.program_id(0), tl.program_id(1)
    pixels = frame.to(tl.int64) * height * width
    flow += 2 * pixels
    edges += pixels
    x = tl.arange(0, BLOCK_W)
    in_row = x < width
    first = strip * rows_per_strip
    last = tl.minimum(first + rows_per_strip, height)

    magnitude = _magnitudes(flow, first, height, width, INTERLEAVED, BLOCK_W)
    difference, smooth = _row_filters(magnitude, width, REPLICATE, BLOCK_W)
    above = _magnitudes(flow, first - 1, height, width, INTERLEAVED, BLOCK_W)
    difference_above, smooth_above = _row_filters(above, width, REPLICATE, BLOCK_W)
    if REPLICATE:
        difference_above = tl.where(first > 0, difference_above, difference)
        smooth_above = tl.where(first > 0, smooth_above, smooth)
    sums = tl.zeros([BLOCK_W], tl.float32)
    for y in range(first, last):
        below = _magnitudes(flow, y + 1, height, width, INTERLEAVED, BLOCK_W)
        difference_below, smooth_below = _row_filters(below, width, REPLICATE, BLOCK_W)
        if REPLICATE:
            difference_below = tl.where(y + 1 < height, difference_below, difference)
            smooth_below = tl.where(y + 1 < height, smooth_below, smooth)
        gradient_x = difference_above + 2.0 * difference + difference_below
        gradient_y = smooth_below - smooth_above
        edge = tl.sqrt(gradient_x * gradient_x + gradient_y * gradient_y) * factor
        edge = tl.minimum(edge, clamp)
        sums += tl.where(in_row, edge, 0.0)
        if QUANTIZE:
            stored = ((edge * levels + ROUND) - ROUND).to(tl.uint8)
        else:
            stored = edge.to(edges.dtype.element_ty)
        tl.store(edges + y * width + x, stored, mask=in_row)
        difference_above, smooth_above = difference, smooth
        difference, smooth = difference_below, smooth_below
    tl.store(strip_sums + frame * tl.num_programs(1) + strip, tl.sum(sums, 0))


# ---- Launch


def forward(
    flow: Tensor,
    layout: str,
    gain: float,
    border: str,
    clamp: float,
    scale: float,
    out_dtype: torch.dtype,
    configuration: EdgesConfiguration | None = None,
) -> tuple[Tensor, Tensor]:
    """See `modist::flow_edges`; `configuration` in place of the table's, to measure it."""
    interleaved = layout == "hwc"
    height, width = flow.shape[-3:-1] if interleaved else flow.shape[-2:]
    leading = flow.shape[:-3]
    if width > MAX_WIDTH:
        raise ValueError(
            f"flow_edges, Triton kernel: a row must have at most {MAX_WIDTH} pixels, and has {width}. "
            "Make the flow smaller, or pass backend='reference'."
        )
    flow = flow.contiguous()
    frames = leading.numel()
    edges = torch.empty(*leading, height, width, dtype=out_dtype, device=flow.device)
    if frames == 0:
        return edges, torch.empty(leading, dtype=torch.float32, device=flow.device)
    if configuration is None:
        configuration = edges_configuration(architecture(flow.device), frames, height, width)
    strips = triton.cdiv(height, configuration.rows_per_strip)
    strip_sums = torch.empty(frames, strips, dtype=torch.float32, device=flow.device)
    launch(
        edges_kernel,
        (frames, strips),
        flow,
        edges,
        strip_sums,
        height,
        width,
        configuration.rows_per_strip,
        gain * abs(scale),
        clamp,
        255 / clamp,
        INTERLEAVED=interleaved,
        REPLICATE=border == "replicate",
        QUANTIZE=out_dtype == torch.uint8,
        BLOCK_W=max(MIN_BLOCK_W, triton.next_power_of_2(width)),
        num_warps=configuration.num_warps,
    )
    return edges, (strip_sums.sum(dim=1) / (height * width)).reshape(leading)
