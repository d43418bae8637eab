"""InfoNCE over memory banks: custom op, autograd, public call. `definition.py` says what is computed."""

import torch
from torch import Tensor

from modist_kernels.dispatch import choose_backend
from modist_kernels.queue_infonce.definition import (
    CrossNegatives,
    QueueInfoNCE,
    check,
    num_products,
    num_terms,
    queue_infonce_reference,
)

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
        from modist_kernels.queue_infonce.launches import forward
    else:
        from modist_kernels.queue_infonce.cpu import forward
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
        from modist_kernels.queue_infonce.launches import backward
    else:
        from modist_kernels.queue_infonce.cpu import backward
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
    check(queries, keys, bank, bank_ids, ids, temperature, cross_negatives)
    losses, top1, positive, lse, _ = _forward(
        queries, keys.detach(), bank, bank_ids, ids, temperature, cross_negatives, chosen
    )
    return QueueInfoNCE(losses, top1, positive, lse)
