"""The Triton kernels of batch_norm: sums over the rows of a group, then a pass that applies them; so too backward.

x is seen as rows of C channels, R rows to a group, one group after another. A program of a sum has a tile of channels
and a part of a group's rows; the last of the programs of a group and tile to come by adds their parts up, in a fixed
order. Which one is last is told by a ticket that it sets back to 0. Every number has one writer: two runs give
identical bits.
"""

import triton
import triton.language as tl

TILE_S = tl.constexpr(16)  # splits that the last program adds at a time


@triton.jit
def _total(parts, group, groups, splits, channels, inside, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The two sums of a group, added up over its splits: parts is (2, G, S, C)."""
    first = tl.zeros([TILE_S, BLOCK_C], tl.float32)
    second = tl.zeros([TILE_S, BLOCK_C], tl.float32)
    for start in tl.range(0, splits, TILE_S):  # pyright: ignore[reportGeneralTypeIssues]
        split = start + tl.arange(0, TILE_S)
        offsets = (group * splits + split)[:, None] * C + channels[None, :]
        mask = (split < splits)[:, None] & inside[None, :]
        # Past the first-level cache, which may hold what stood there before.
        first += tl.load(parts + offsets, mask=mask, other=0.0, cache_modifier=".cg")
        second += tl.load(parts + groups * splits * C + offsets, mask=mask, other=0.0, cache_modifier=".cg")
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit(do_not_specialize=["rows", "rows_per_split"])
def statistics_kernel(
    x,  # (G R, C)
    parts,  # (2, G, S, C) float32
    tickets,  # (G tiles,) int32, zeros
    mean,  # (G, C) float32
    inverse_std,  # (G, C) float32
    rows,
    rows_per_split,
    eps,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split, group, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits, groups = tl.num_programs(0), tl.num_programs(1)
    channels = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < C
    begin = x + group.to(tl.int64) * rows * C
    # Sums of deviations from the group's first row: close to the mean, so that the squares do not cancel.
    origin = tl.load(begin + channels, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    first = split * rows_per_split
    last = tl.minimum(first + rows_per_split, rows)
    for start in tl.range(first, last, BLOCK_R):  # pyright: ignore[reportGeneralTypeIssues]
        row = start + tl.arange(0, BLOCK_R)
        mask = (row < last)[:, None] & inside[None, :]
        value = tl.load(begin + row.to(tl.int64)[:, None] * C + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - origin[None, :], 0.0)
        total += value
        squares += value * value
    place = parts + (group * splits + split) * C + channels
    tl.store(place, tl.sum(total, 0), mask=inside)
    tl.store(place + groups * splits * C, tl.sum(squares, 0), mask=inside)
    tl.debug_barrier()  # all threads' stores before the ticket
    ticket = tickets + group * tl.num_programs(2) + tile
    if tl.atomic_add(ticket, 1, sem="acq_rel") == splits - 1:
        sum_, square = _total(parts, group, groups, splits, channels, inside, C, BLOCK_C)
        shift = sum_ / rows
        variance = tl.maximum(square / rows - shift * shift, 0.0)
        tl.store(mean + group * C + channels, origin + shift, mask=inside)
        tl.store(inverse_std + group * C + channels, tl.rsqrt(variance + eps), mask=inside)
        tl.store(ticket, 0)


@triton.jit(do_not_specialize=["rows", "rows_per_program"])
def normalize_kernel(
    x,  # (G R, C)
    residual,  # (G R, C), or x where there is none
    weight,  # (C,) float32
    bias,  # (C,) float32
    mean,  # (G, C) float32
    inverse_std,  # (G, C) float32
    running_mean,  # (C,) float32
    running_var,  # (C,) float32
    y,  # (G R, C)
    rows,
    rows_per_program,
    momentum,
    eps,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    part, group, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups = tl.num_programs(1)
    channels = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < C
    if (part == 0) & (group == 0):
        mean_sum = tl.zeros([BLOCK_C], tl.float32)
        var_sum = tl.zeros([BLOCK_C], tl.float32)
        for g in tl.range(0, groups):  # pyright: ignore[reportGeneralTypeIssues]
            mean_sum += tl.load(mean + g * C + channels, mask=inside, other=0.0)
            inverse = tl.load(inverse_std + g * C + channels, mask=inside, other=1.0)
            var_sum += 1.0 / (inverse * inverse) - eps
        # In floating point from the start: an integer division would be that of the host's type.
        unbiased = rows * 1.0 / (rows - 1.0) / groups
        before = tl.load(running_mean + channels, mask=inside, other=0.0)
        tl.store(running_mean + channels, before + momentum * (mean_sum / groups - before), mask=inside)
        before = tl.load(running_var + channels, mask=inside, other=0.0)
        tl.store(running_var + channels, before + momentum * (var_sum * unbiased - before), mask=inside)
    centre = tl.load(mean + group * C + channels, mask=inside, other=0.0)
    scale = tl.load(inverse_std + group * C + channels, mask=inside, other=0.0)
    scale *= tl.load(weight + channels, mask=inside, other=0.0)
    offset = tl.load(bias + channels, mask=inside, other=0.0)
    base = group.to(tl.int64) * rows * C
    first = part * rows_per_program
    last = tl.minimum(first + rows_per_program, rows)
    for start in tl.range(first, last, BLOCK_R):  # pyright: ignore[reportGeneralTypeIssues]
        row = start + tl.arange(0, BLOCK_R)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = base + row.to(tl.int64)[:, None] * C + channels[None, :]
        value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        value = (value - centre[None, :]) * scale[None, :] + offset[None, :]
        if RESIDUAL:
            value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            value = tl.maximum(value, 0.0)
        tl.store(y + offsets, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "rows_per_split"])
def gradient_sums_kernel(
    grad_y,  # (G R, C)
    x,  # (G R, C)
    y,  # (G R, C), or x where the mask can be had from x
    weight,  # (C,) float32
    bias,  # (C,) float32
    mean,  # (G, C) float32
    inverse_std,  # (G, C) float32
    grad_residual,  # (G R, C), or grad_y where there is no residual
    parts,  # (2, G, S, C) float32
    tickets,  # (G tiles,) int32, zeros
    sums,  # (2, G, C) float32: of the gradient behind the ReLU; of that times the normalized x
    rows,
    rows_per_split,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split, group, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits, groups = tl.num_programs(0), tl.num_programs(1)
    channels = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < C
    centre = tl.load(mean + group * C + channels, mask=inside, other=0.0)
    scale = tl.load(inverse_std + group * C + channels, mask=inside, other=0.0)
    slope = tl.load(weight + channels, mask=inside, other=0.0)
    offset = tl.load(bias + channels, mask=inside, other=0.0)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    products = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    base = group.to(tl.int64) * rows * C
    first = split * rows_per_split
    last = tl.minimum(first + rows_per_split, rows)
    for start in tl.range(first, last, BLOCK_R):  # pyright: ignore[reportGeneralTypeIssues]
        row = start + tl.arange(0, BLOCK_R)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = base + row.to(tl.int64)[:, None] * C + channels[None, :]
        grad = tl.load(grad_y + offsets, mask=mask, other=0.0)
        normalized = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - centre[None, :]) * scale[None, :]
        if RELU:
            if RESIDUAL:
                alive = tl.load(y + offsets, mask=mask, other=0.0) > 0
            else:
                alive = normalized * slope[None, :] + offset[None, :] > 0
            grad = tl.where(alive, grad, 0.0)
        if RESIDUAL:
            tl.store(grad_residual + offsets, grad, mask=mask)
        grad = tl.where(mask, grad.to(tl.float32), 0.0)
        total += grad
        products += grad * normalized
    place = parts + (group * splits + split) * C + channels
    tl.store(place, tl.sum(total, 0), mask=inside)
    tl.store(place + groups * splits * C, tl.sum(products, 0), mask=inside)
    tl.debug_barrier()
    ticket = tickets + group * tl.num_programs(2) + tile
    if tl.atomic_add(ticket, 1, sem="acq_rel") == splits - 1:
        sum_, product = _total(parts, group, groups, splits, channels, inside, C, BLOCK_C)
        tl.store(sums + group * C + channels, sum_, mask=inside)
        tl.store(sums + groups * C + group * C + channels, product, mask=inside)
        tl.store(ticket, 0)


@triton.jit(do_not_specialize=["rows", "rows_per_program"])
def gradient_kernel(
    grad_z,  # (G R, C): before the ReLU where there is a residual, which kept it; else grad_y
    x,  # (G R, C)
    weight,  # (C,) float32
    bias,  # (C,) float32
    mean,  # (G, C) float32
    inverse_std,  # (G, C) float32
    sums,  # (2, G, C) float32
    grad_x,  # (G R, C)
    grad_weight,  # (C,) float32
    grad_bias,  # (C,) float32
    rows,
    rows_per_program,
    C: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    part, group, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups = tl.num_programs(1)
    channels = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < C
    if (part == 0) & (group == 0):
        weight_sum = tl.zeros([BLOCK_C], tl.float32)
        bias_sum = tl.zeros([BLOCK_C], tl.float32)
        for g in tl.range(0, groups):  # pyright: ignore[reportGeneralTypeIssues]
            bias_sum += tl.load(sums + g * C + channels, mask=inside, other=0.0)
            weight_sum += tl.load(sums + (groups + g) * C + channels, mask=inside, other=0.0)
        tl.store(grad_weight + channels, weight_sum, mask=inside)
        tl.store(grad_bias + channels, bias_sum, mask=inside)
    centre = tl.load(mean + group * C + channels, mask=inside, other=0.0)
    scale = tl.load(inverse_std + group * C + channels, mask=inside, other=0.0)
    slope = tl.load(weight + channels, mask=inside, other=0.0)
    offset = tl.load(bias + channels, mask=inside, other=0.0)
    mean_grad = tl.load(sums + group * C + channels, mask=inside, other=0.0) / rows
    mean_product = tl.load(sums + (groups + group) * C + channels, mask=inside, other=0.0) / rows
    base = group.to(tl.int64) * rows * C
    first = part * rows_per_program
    last = tl.minimum(first + rows_per_program, rows)
    for start in tl.range(first, last, BLOCK_R):  # pyright: ignore[reportGeneralTypeIssues]
        row = start + tl.arange(0, BLOCK_R)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = base + row.to(tl.int64)[:, None] * C + channels[None, :]
        grad = tl.load(grad_z + offsets, mask=mask, other=0.0).to(tl.float32)
        normalized = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - centre[None, :]) * scale[None, :]
        if MASK:
            grad = tl.where(normalized * slope[None, :] + offset[None, :] > 0, grad, 0.0)
        grad = (grad - mean_grad[None, :] - normalized * mean_product[None, :]) * (slope * scale)[None, :]
        tl.store(grad_x + offsets, grad.to(grad_x.dtype.element_ty), mask=mask)
