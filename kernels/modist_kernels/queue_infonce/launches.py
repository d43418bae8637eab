"""Launches of the Triton kernels of queue_infonce."""

import math

import torch
import triton
from torch import Tensor

from modist_kernels.configurations import PartialConfiguration, architecture, partial_configuration
from modist_kernels.launch import launch
from modist_kernels.queue_infonce.definition import num_products, num_terms
from modist_kernels.queue_infonce.kernels import backward_kernel, combine_kernel, partial_kernel

SUPPORTED_DIMS = (64, 128, 256)
COMBINE_TILE = 16  # splits that a program of the combination adds at a time


def forward(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    temperature: float,
    cross_negatives: str,
    configuration: PartialConfiguration | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `modist::queue_infonce`; `configuration` in place of the table's, to measure it."""
    modalities, batch, dim = queries.shape
    num = bank.shape[1]
    _check_kernel_input(queries, bank, dim)
    queries, keys, bank_ids, ids = (x.contiguous() for x in (queries, keys, bank_ids, ids))
    paired = modalities == 2
    both = paired and cross_negatives == "other"
    rows = batch * 2 if both else batch
    if configuration is None:
        configuration = partial_configuration(architecture(queries.device), rows, dim)
    row_tiles, num_splits, tiles_per_split = split_bank(configuration, rows, num, modalities)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=queries.device, dtype=torch.float32)

    maxima, sums = empty(modalities, num_splits, rows), empty(modalities, num_splits, rows)
    weighted = empty(modalities, num_splits, rows, dim)
    launch(
        partial_kernel,
        (row_tiles, num_splits, modalities),
        queries,
        bank,
        bank_ids,
        ids,
        maxima,
        sums,
        weighted,
        batch,
        num,
        tiles_per_split,
        math.log2(math.e) / temperature,
        BOTH=both,
        SPLIT_QUERY=queries.dtype == torch.float32,
        C=dim,
        BLOCK_R=configuration.block_rows,
        BLOCK_N=configuration.block_negatives,
        STAGES=configuration.num_stages,
        num_warps=configuration.num_warps,
    )
    losses, top1, positive, lse = (empty(num_terms(modalities), batch) for _ in range(4))
    products = num_products(modalities, cross_negatives)
    mean_negative = empty(products, batch, dim)
    launch(
        combine_kernel,
        (batch, products),
        queries,
        keys,
        maxima,
        sums,
        weighted,
        losses,
        top1,
        positive,
        lse,
        mean_negative,
        batch,
        num_splits,
        1 / temperature,
        PAIRED=paired,
        BOTH=both,
        C=dim,
        BLOCK_S=triton.next_power_of_2(num_splits),
        TILE_S=COMBINE_TILE,
        num_warps=4,
    )
    return losses, top1, positive, lse, mean_negative


def split_bank(
    configuration: PartialConfiguration, rows: int, num_negatives: int, modalities: int
) -> tuple[int, int, int]:
    """Return row tiles, splits of the bank, and bank tiles in a split; no split is empty."""
    row_tiles = triton.cdiv(rows, configuration.block_rows)
    bank_tiles = triton.cdiv(num_negatives, configuration.block_negatives)
    wanted = max(1, configuration.num_programs // (row_tiles * modalities))
    tiles_per_split = triton.cdiv(bank_tiles, wanted)
    return row_tiles, triton.cdiv(bank_tiles, tiles_per_split), tiles_per_split


def backward(
    grad_losses: Tensor,
    lse: Tensor,
    positive: Tensor,
    keys: Tensor,
    mean_negative: Tensor,
    temperature: float,
    cross_negatives: str,
    dtype: torch.dtype,
) -> Tensor:
    """See `modist::queue_infonce_backward`."""
    modalities, batch, dim = keys.shape
    grad_queries = torch.empty(keys.shape, dtype=dtype, device=keys.device)
    launch(
        backward_kernel,
        (batch, modalities),
        grad_losses.float(),
        lse,
        positive,
        keys.contiguous(),
        mean_negative,
        grad_queries,
        batch,
        1 / temperature,
        PAIRED=modalities == 2,
        BOTH=modalities == 2 and cross_negatives == "other",
        C=dim,
        num_warps=1,
    )
    return grad_queries


def _check_kernel_input(queries: Tensor, bank: Tensor, dim: int) -> None:
    problem = None
    if dim not in SUPPORTED_DIMS:
        problem = f"C must be one of {SUPPORTED_DIMS}, and is {dim}"
    elif queries.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        problem = f"queries must be float16, bfloat16 or float32, and are {queries.dtype}"
    elif bank.dtype != torch.float16:
        problem = f"bank must be float16, and is {bank.dtype}: store keys as fp16 (unit vectors fit it best)"
    elif not bank.is_contiguous():
        problem = "bank must be contiguous (M, N, C): a copy at every call would undo the one pass over it"
    if problem:
        raise ValueError(f"queue_infonce, Triton kernel: {problem}. backend='reference' takes any.")
