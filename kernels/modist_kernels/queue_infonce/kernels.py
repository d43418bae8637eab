"""The Triton kernels of queue_infonce: a pass over the bank in splits, their combination, the backward.

Partial: program (row tile, split, bank) keeps, for its rows and its part of the bank, a running maximum m, a sum
l = Σ_j 2^(x_j - m) and the weighted sum Σ_j 2^(x_j - m) n_j, x = q.n/τ in units of log2. Combine: program (row,
product) merges the splits into lse and the mean negative A, and adds the positives. Backward: from A and lse alone.
Every number has one writer, and sums have one order: two runs give identical bits.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["batch", "num_negatives", "tiles_per_split"])
def partial_kernel(
    queries,  # (M, B, C)
    bank,  # (M, N, C) float16
    bank_ids,  # (N,) int32
    ids,  # (B,) int32
    maxima,  # (M, S, R) float32, R = B, or 2 B where both queries meet each bank
    sums,  # (M, S, R) float32
    weighted,  # (M, S, R, C) float32
    batch,
    num_negatives,
    tiles_per_split,
    log2_scale,
    BOTH: tl.constexpr,
    SPLIT_QUERY: tl.constexpr,
    C: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile, split, modality = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_splits = tl.num_programs(1)
    num_rows = batch * 2 if BOTH else batch
    rows = tile * BLOCK_R + tl.arange(0, BLOCK_R)
    in_rows = rows < num_rows
    channels = tl.arange(0, C)

    # The first B rows are the queries of the bank's own modality, the next B those of the other one.
    sample = tl.where(rows < batch, rows, rows - batch)
    query_modality = tl.where(rows < batch, modality, 1 - modality)
    offsets = (query_modality * batch + sample)[:, None] * C + channels[None, :]
    exact = tl.load(queries + offsets, mask=in_rows[:, None], other=0.0).to(tl.float32)
    query = exact.to(tl.float16)
    if SPLIT_QUERY:  # what fp16 leaves of an fp32 query, in a second product: rounding q would lead all errors
        rest = (exact - query.to(tl.float32)).to(tl.float16)
    video = tl.load(ids + sample, mask=in_rows, other=-1)

    first = split * tiles_per_split * BLOCK_N
    last = tl.minimum(first + tiles_per_split * BLOCK_N, num_negatives)
    negatives = bank + modality.to(tl.int64) * num_negatives * C + first.to(tl.int64) * C
    maximum = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    accumulator = tl.zeros([BLOCK_R, C], tl.float32)
    for start in tl.range(0, last - first, BLOCK_N, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        column = start + tl.arange(0, BLOCK_N)
        inside = column < last - first
        # Beyond the end of the bank stand empty slots.
        owner = tl.load(bank_ids + first + column, mask=inside, other=-1)
        negative = tl.load(negatives + column[:, None] * C + channels[None, :], mask=inside[:, None], other=0.0)
        logits = tl.dot(query, negative.T)
        if SPLIT_QUERY:
            logits = tl.dot(rest, negative.T, logits)
        logits *= log2_scale
        counts = (owner[None, :] >= 0) & (owner[None, :] != video[:, None])
        logits = tl.where(counts, logits, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        # Where nothing has counted yet: 0 instead of -inf, so that -inf - -inf never happens.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        decay = tl.exp2(maximum - shift)
        weights = tl.exp2(logits - shift[:, None])
        rounded = weights.to(tl.float16)
        # The sum takes the weights as the product does, so that rounding them does not pull A out of the hull.
        total = total * decay + tl.sum(rounded.to(tl.float32), 1)
        accumulator = tl.dot(rounded, negative, accumulator * decay[:, None])
        maximum = new_maximum

    out = (modality * num_splits + split) * num_rows + rows
    tl.store(maxima + out, maximum, mask=in_rows)
    tl.store(sums + out, total, mask=in_rows)
    tl.store(weighted + out.to(tl.int64)[:, None] * C + channels[None, :], accumulator, mask=in_rows[:, None])


@triton.jit
def _term(
    term,
    query_modality,
    key_modality,
    row,
    query,
    keys,
    lse,
    maximum,
    losses,
    top1,
    positives,
    lses,
    batch,
    inverse_temperature,
    C: tl.constexpr,
):
    """Write loss and metrics of one term of one row."""
    key = tl.load(keys + (key_modality * batch + row) * C + tl.arange(0, C)).to(tl.float32)
    positive = tl.sum(query * key, 0)
    logit = positive * inverse_temperature
    # softplus(lse - logit), stable on both sides; lse = -inf gives 0.
    gap = lse - logit
    loss = tl.maximum(gap, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(gap)))
    out = term * batch + row
    tl.store(losses + out, loss)
    tl.store(top1 + out, tl.where(logit > maximum, 1.0, 0.0))
    tl.store(positives + out, positive)
    tl.store(lses + out, lse)


@triton.jit(do_not_specialize=["batch", "num_splits"])
def combine_kernel(
    queries,  # (M, B, C)
    keys,  # (M, B, C)
    maxima,
    sums,
    weighted,
    losses,  # (T, B) float32, and so the next three
    top1,
    positives,
    lses,
    mean_negative,  # (P, B, C) float32
    batch,
    num_splits,
    inverse_temperature,
    PAIRED: tl.constexpr,
    BOTH: tl.constexpr,
    C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    TILE_S: tl.constexpr,
):
    row, product = tl.program_id(0), tl.program_id(1)
    # Products: (query 0, bank 0), (1, 1) and, where both queries meet both banks, (0, 1), (1, 0).
    cross = product >= 2
    query_modality = product % 2
    bank_modality = tl.where(cross, 1 - query_modality, query_modality)
    num_rows = batch * 2 if BOTH else batch
    partial = bank_modality * num_splits * num_rows + tl.where(cross, batch, 0) + row
    channels = tl.arange(0, C)

    splits = tl.arange(0, BLOCK_S)
    in_splits = splits < num_splits
    maximum = tl.load(maxima + partial + splits * num_rows, mask=in_splits, other=float("-inf"))
    total = tl.load(sums + partial + splits * num_rows, mask=in_splits, other=0.0)
    largest = tl.max(maximum, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    denominator = tl.sum(total * tl.exp2(maximum - shift), 0)

    accumulator = tl.zeros([TILE_S, C], tl.float32)
    for start in range(0, num_splits, TILE_S):
        part = start + tl.arange(0, TILE_S)
        inside = part < num_splits
        weight = tl.exp2(tl.load(maxima + partial + part * num_rows, mask=inside, other=float("-inf")) - shift)
        offsets = (partial + part * num_rows).to(tl.int64)[:, None] * C + channels[None, :]
        accumulator += weight[:, None] * tl.load(weighted + offsets, mask=inside[:, None], other=0.0)
    mean = tl.sum(accumulator, 0) / tl.where(denominator == 0.0, 1.0, denominator)
    tl.store(mean_negative + (product * batch + row) * C + channels, mean)

    lse = (largest + tl.log2(denominator)) * LN2
    largest = largest * LN2
    query = tl.load(queries + (query_modality * batch + row) * C + channels).to(tl.float32)
    # Term 0, 1 within a modality, term 2, 3 across, by query.
    if BOTH:
        key_modality = tl.where(cross, 1 - query_modality, query_modality)
        _term(
            product, query_modality, key_modality, row, query, keys, lse, largest,
            losses, top1, positives, lses, batch, inverse_temperature, C,
        )  # fmt: skip
    else:
        _term(
            product, query_modality, query_modality, row, query, keys, lse, largest,
            losses, top1, positives, lses, batch, inverse_temperature, C,
        )  # fmt: skip
        if PAIRED:
            _term(
                product + 2, query_modality, 1 - query_modality, row, query, keys, lse, largest,
                losses, top1, positives, lses, batch, inverse_temperature, C,
            )  # fmt: skip


@triton.jit
def _pull(term, row, grad_losses, lses, positives, batch, inverse_temperature):
    """Weight of (mean negative - positive key) in the gradient: g σ(lse - q.k/τ) / τ."""
    at = term * batch + row
    gap = tl.load(lses + at) - tl.load(positives + at) * inverse_temperature
    return tl.load(grad_losses + at) * inverse_temperature / (1.0 + tl.exp(-gap))


@triton.jit(do_not_specialize=["batch"])
def backward_kernel(
    grad_losses,  # (T, B) float32
    lses,
    positives,
    keys,  # (M, B, C)
    mean_negative,  # (P, B, C) float32
    grad_queries,  # (M, B, C)
    batch,
    inverse_temperature,
    PAIRED: tl.constexpr,
    BOTH: tl.constexpr,
    C: tl.constexpr,
):
    row, modality = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, C)
    at = (modality * batch + row) * C + channels
    mean = tl.load(mean_negative + at)
    pull = _pull(modality, row, grad_losses, lses, positives, batch, inverse_temperature)
    grad = pull * (mean - tl.load(keys + at).to(tl.float32))
    if PAIRED:
        if BOTH:
            mean = tl.load(mean_negative + ((modality + 2) * batch + row) * C + channels)
        key = tl.load(keys + ((1 - modality) * batch + row) * C + channels).to(tl.float32)
        pull = _pull(modality + 2, row, grad_losses, lses, positives, batch, inverse_temperature)
        grad += pull * (mean - key)
    tl.store(grad_queries + at, grad.to(grad_queries.dtype.element_ty))
