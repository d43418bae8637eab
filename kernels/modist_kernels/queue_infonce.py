"""InfoNCE over memory banks (paper section 3.1, Eq. 1 to 3): definition, custom op, autograd, public call.

    IN(q, k, N) = -log( exp(q.k/τ) / (exp(q.k/τ) + Σ_j exp(q.n_j/τ)) ) = softplus(lse - q.k/τ)

with lse = log Σ_j exp(q.n_j/τ) over the negatives that count. Its gradient is (A - k) σ(lse - q.k/τ) / τ where A, the
mean of the negatives under their softmax, comes out of the same pass as lse: backward never reads the bank.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modist_kernels.dispatch import choose_backend

CrossNegatives = Literal["own", "other"]

# Term by term (visual, motion, visual_to_motion, motion_to_visual): which query, which positive key, and which
# product of queries and bank. The products of OWN: (query 0, bank 0), (1, 1); those of OTHER: also (0, 1), (1, 0).
QUERY = (0, 1, 0, 1)
POSITIVE = (0, 1, 1, 0)
PRODUCT = {"own": (0, 1, 0, 1), "other": (0, 1, 2, 3)}
PRODUCT_BANK = {"own": (0, 1), "other": (0, 1, 1, 0)}


class QueueInfoNCE(NamedTuple):
    """Terms in the order visual, motion, visual_to_motion, motion_to_visual; T = 4, or 1 when M = 1."""

    losses: Tensor
    """(T, B) float32, nats; differentiable with respect to the queries. 0 where no negative counts."""
    top1: Tensor
    """(T, B) float32, 1 where the positive is nearer than every negative, else 0."""
    positive: Tensor
    """(T, B) float32, q.k: the cosine of query and positive, for unit vectors."""
    lse: Tensor
    """(T, B) float32, log Σ exp(q.n_j/τ) over the negatives that count; -inf where there is none."""


def num_products(num_modalities: int, cross_negatives: str) -> int:
    """Number of distinct (query, bank) pairs of modalities that the terms need."""
    return 1 if num_modalities == 1 else len(PRODUCT_BANK[cross_negatives])


def num_terms(num_modalities: int) -> int:
    """Number of loss terms T."""
    return 1 if num_modalities == 1 else len(QUERY)


# ---- Definition


def queue_infonce_reference(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    *,
    temperature: float = 0.1,
    cross_negatives: CrossNegatives = "own",
) -> QueueInfoNCE:
    """Compute what `queue_infonce` computes, term by term in plain torch; it holds (B, N) logits in memory.

    Float64 queries are computed in float64, all others in float32.
    """
    _check(queries, keys, bank, bank_ids, ids, temperature, cross_negatives)
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    queries, keys, bank = queries.to(dtype), keys.to(dtype).detach(), bank.to(dtype).detach()
    excluded = (bank_ids[None, :] < 0) | (bank_ids[None, :] == ids[:, None])  # (B, N)

    def term(query: int, positive: int, negatives: int) -> tuple[Tensor, ...]:
        cosine = (queries[query] * keys[positive]).sum(1)
        negative = (queries[query] @ bank[negatives].T / temperature).masked_fill(excluded, -math.inf)
        logits = torch.cat([cosine[:, None] / temperature, negative], dim=1)
        loss = torch.logsumexp(logits, dim=1) - logits[:, 0]
        with torch.no_grad():
            top1 = (logits[:, 0] > negative.amax(dim=1)).to(dtype)
            lse = torch.logsumexp(negative, dim=1)
        return loss, top1, cosine.detach(), lse

    terms = [
        term(QUERY[t], POSITIVE[t], PRODUCT_BANK[cross_negatives][PRODUCT[cross_negatives][t]])
        for t in range(num_terms(len(queries)))
    ]
    return QueueInfoNCE(*(torch.stack(column) for column in zip(*terms, strict=True)))


# ---- Custom ops, so that torch.compile keeps the graph whole


@torch.library.custom_op("modist::queue_infonce", mutates_args=())
def _forward(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    temperature: float,
    cross_negatives: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return losses, top1, positive, lse, all (T, B), and A (P, B, C), the mean negative of each product."""
    if backend == "triton":
        from modist_kernels.queue_infonce_triton import forward
    else:
        from modist_kernels.queue_infonce_cpu import forward
    return forward(queries, keys, bank, bank_ids, ids, temperature, cross_negatives)


@_forward.register_fake
def _(queries, keys, bank, bank_ids, ids, temperature, cross_negatives, backend):
    num_modalities, batch, dim = queries.shape
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    per_term = [queries.new_empty(num_terms(num_modalities), batch, dtype=dtype) for _ in range(4)]
    mean_negative = queries.new_empty(num_products(num_modalities, cross_negatives), batch, dim, dtype=dtype)
    return (*per_term, mean_negative)


@torch.library.custom_op("modist::queue_infonce_backward", mutates_args=())
def _backward(
    grad_losses: Tensor,
    lse: Tensor,
    positive: Tensor,
    keys: Tensor,
    mean_negative: Tensor,
    temperature: float,
    cross_negatives: str,
    backend: str,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient with respect to the queries, (M, B, C) in `dtype`."""
    if backend == "triton":
        from modist_kernels.queue_infonce_triton import backward
    else:
        from modist_kernels.queue_infonce_cpu import backward
    return backward(grad_losses, lse, positive, keys, mean_negative, temperature, cross_negatives, dtype)


@_backward.register_fake
def _(grad_losses, lse, positive, keys, mean_negative, temperature, cross_negatives, backend, dtype):
    return torch.empty_like(keys, dtype=dtype, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:
    queries, keys, _, _, _, ctx.temperature, ctx.cross_negatives, ctx.backend = inputs
    _, top1, positive, lse, mean_negative = output
    ctx.mark_non_differentiable(top1, positive, lse, mean_negative)
    ctx.save_for_backward(lse, positive, keys, mean_negative)
    ctx.dtype = queries.dtype


def _autograd_backward(ctx, grad_losses, *_):
    lse, positive, keys, mean_negative = ctx.saved_tensors
    grad_queries = _backward(
        grad_losses.contiguous(),
        lse,
        positive,
        keys,
        mean_negative,
        ctx.temperature,
        ctx.cross_negatives,
        ctx.backend,
        ctx.dtype,
    )
    return grad_queries, None, None, None, None, None, None, None


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)


# ---- Public call


def queue_infonce(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    *,
    temperature: float = 0.1,
    cross_negatives: CrossNegatives = "own",
    backend: str | None = None,
) -> QueueInfoNCE:
    """Compute the contrastive terms of a batch against the memory banks, each bank read once.

    Args:
        queries: (M, B, C) float16, bfloat16 or float32, normally unit vectors; M = 2 (0 visual, 1 motion), or 1 for
            RGB-only. The only input that gets a gradient.
        keys: (M, B, C) floating point; row b is the positive of query b.
        bank: (M, N, C) float16 negatives.
        bank_ids: (N,) int32, the video of each bank slot; < 0 marks an empty slot, which never counts.
        ids: (B,) int32, the video of each query; negatives of the same video do not count for it.
        temperature: τ > 0.
        cross_negatives: the negatives of the two cross-modal terms: "own", the query's modality, as Eq. 2 prints, or
            "other".
        backend: one of `BACKENDS` to force an implementation; by default Triton on CUDA, "cpu" on the CPU.

    Raises:
        ValueError: shapes, types or options that do not fit, or a backend that does not run here.
    """
    chosen = choose_backend("queue_infonce", queries.device, backend)
    if chosen == "reference":
        return queue_infonce_reference(
            queries, keys, bank, bank_ids, ids, temperature=temperature, cross_negatives=cross_negatives
        )
    _check(queries, keys, bank, bank_ids, ids, temperature, cross_negatives)
    losses, top1, positive, lse, _ = _forward(
        queries, keys.detach(), bank, bank_ids, ids, temperature, cross_negatives, chosen
    )
    return QueueInfoNCE(losses, top1, positive, lse)


def _check(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    temperature: float,
    cross_negatives: str,
) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"queue_infonce: {message}")

    require(
        queries.dim() == 3 and queries.shape[0] in (1, 2),
        f"queries must be (M, B, C), M 1 or 2: {queries.shape}",
    )
    require(
        keys.shape == queries.shape,
        f"keys {tuple(keys.shape)} must have the shape of queries {tuple(queries.shape)}",
    )
    modalities, batch, dim = queries.shape
    require(batch >= 1, "the batch is empty: queries must hold at least one row")
    require(
        bank.dim() == 3 and (bank.shape[0], bank.shape[2]) == (modalities, dim) and bank.shape[1] >= 1,
        f"bank {tuple(bank.shape)} must be (M, N, C) with M = {modalities}, N >= 1 and C = {dim}, those of the queries",
    )
    require(
        bank_ids.shape == bank.shape[1:2],
        f"bank_ids {tuple(bank_ids.shape)} must be (N,) with N = {bank.shape[1]}",
    )
    require(ids.shape == (batch,), f"ids {tuple(ids.shape)} must be (B,) with B = {batch}")
    for name, tensor in (("bank_ids", bank_ids), ("ids", ids)):
        require(tensor.dtype == torch.int32, f"{name} must be int32, and is {tensor.dtype}")
    for name, tensor in (("queries", queries), ("keys", keys), ("bank", bank)):
        require(tensor.is_floating_point(), f"{name} must be floating point, and is {tensor.dtype}")
    for name, tensor in (("keys", keys), ("bank", bank), ("bank_ids", bank_ids), ("ids", ids)):
        require(tensor.device == queries.device, f"{name} is on {tensor.device}, queries are on {queries.device}")
    require(temperature > 0, f"temperature must be positive, and is {temperature}")
    require(cross_negatives in PRODUCT, f"cross_negatives must be 'own' or 'other', and is {cross_negatives!r}")
