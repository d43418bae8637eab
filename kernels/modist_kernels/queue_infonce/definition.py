"""InfoNCE over memory banks (paper section 3.1, Eq. 1 to 3): what is computed, and from what.

    IN(q, k, N) = -log( exp(q.k/τ) / (exp(q.k/τ) + Σ_j exp(q.n_j/τ)) ) = softplus(lse - q.k/τ)

with lse = log Σ_j exp(q.n_j/τ) over the negatives that count. Its gradient is (A - k) σ(lse - q.k/τ) / τ where A, the
mean of the negatives under their softmax, comes out of the same pass as lse: backward never reads the bank.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

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
    check(queries, keys, bank, bank_ids, ids, temperature, cross_negatives)
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


def check(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    temperature: float,
    cross_negatives: str,
) -> None:
    """
    Raises:
        ValueError: shapes, types or options that do not fit; the message names the argument.
    """

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
