"""The CPU path of queue_infonce: one pass over the bank in chunks that stay in the cache."""

import math

import torch
from torch import Tensor

from modist_kernels.dispatch import multiplies_bf16
from modist_kernels.queue_infonce.definition import POSITIVE, PRODUCT, QUERY, num_terms

CHUNK = 4096  # bank rows; with their logits they fit a core's share of the cache


def forward(
    queries: Tensor,
    keys: Tensor,
    bank: Tensor,
    bank_ids: Tensor,
    ids: Tensor,
    temperature: float,
    cross_negatives: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `modist::queue_infonce`."""
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    # What bf16 queries have lost already, bf16 products do not lose again; fp16 and fp32 ones are worth fp32.
    half = queries.dtype == torch.bfloat16 and multiplies_bf16(queries.device)
    num_modalities = len(queries)
    queries, keys = queries.to(dtype), keys.to(dtype)
    exclusion = Exclusion(bank_ids, ids)
    both = num_modalities == 2 and cross_negatives == "other"
    statistics = []
    for m in range(num_modalities):
        if both:  # both queries meet this bank, its own modality's first: the bank is read once
            pair = torch.cat([queries[m], queries[1 - m]])
            statistics.append([x.chunk(2) for x in bank_statistics(pair, bank[m], exclusion, temperature, half)])
        else:
            statistics.append([(x,) for x in bank_statistics(queries[m], bank[m], exclusion, temperature, half)])
    # Products in the order of PRODUCT: own pairs first, then (query 0, bank 1), (query 1, bank 0).
    products = [(m, 0) for m in range(num_modalities)] + ([(1, 1), (0, 1)] if both else [])
    lse, maximum, mean_negative = (torch.stack([statistics[m][part][i] for m, i in products]) for part in range(3))

    terms = range(num_terms(num_modalities))
    product = [PRODUCT[cross_negatives][t] for t in terms]
    positive = (queries[[QUERY[t] for t in terms]] * keys[[POSITIVE[t] for t in terms]]).sum(2)
    lse = lse[product]
    logits = positive / temperature
    losses = torch.nn.functional.softplus(lse - logits)
    top1 = (logits > maximum[product]).to(dtype)
    return losses, top1, positive, lse, mean_negative


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
    """See `modist::queue_infonce_backward`. Reads nothing of size N."""
    weight = grad_losses * torch.sigmoid(lse - positive / temperature) / temperature  # (T, B)
    grad = torch.zeros_like(keys, dtype=mean_negative.dtype, memory_format=torch.contiguous_format)
    for t in range(len(weight)):
        difference = mean_negative[PRODUCT[cross_negatives][t]] - keys[POSITIVE[t]]
        grad[QUERY[t]].addcmul_(weight[t][:, None], difference)
    return grad.to(dtype)


class Exclusion:
    """Which negatives do not count for which query, ready for each chunk of the bank.

    Found by a search over N ids, not over B x N pairs: nearly all slots hold videos that the batch does not.
    """

    def __init__(self, bank_ids: Tensor, ids: Tensor) -> None:
        self.empty = bank_ids < 0
        self.any_empty = bool(self.empty.any())
        ordered = ids.sort().values
        place = torch.searchsorted(ordered, bank_ids).clamp_(max=len(ids) - 1)
        slots = (ordered[place] == bank_ids).nonzero()[:, 0]
        pairs = (bank_ids[slots, None] == ids).nonzero()
        self.slots, self.columns = slots[pairs[:, 0]], pairs[:, 1]
        self.batch = len(ids)
        starts = torch.arange(0, len(bank_ids) + CHUNK, CHUNK)
        self.bounds = torch.searchsorted(self.slots, starts).tolist()

    def all_empty(self, start: int, stop: int) -> bool:
        return self.any_empty and bool(self.empty[start:stop].all())

    def apply(self, logits: Tensor, start: int) -> None:
        """Set the excluded entries of a chunk's logits (n, R) to -inf; R is a multiple of the batch."""
        if self.any_empty:
            logits.masked_fill_(self.empty[start : start + len(logits), None], -math.inf)
        first, last = self.bounds[start // CHUNK : start // CHUNK + 2]
        if first < last:
            by_query = logits.view(len(logits), -1, self.batch)
            by_query[self.slots[first:last] - start, :, self.columns[first:last]] = -math.inf


def bank_statistics(
    queries: Tensor, bank: Tensor, exclusion: Exclusion, temperature: float, half_products: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over a bank (N, C) for queries (R, C) float32 or float64.

    Args:
        queries, bank, exclusion, temperature: as their names say.
        half_products: multiply in bf16, sum in float32.

    Returns:
        lse (R,), the largest logit (R,), and the mean negative under the softmax (R, C); -inf, -inf and 0 in rows
        for which no negative counts.
    """
    rows, dim = queries.shape
    num = len(bank)
    # In units of log2, so that exp2 needs no further product; (C, R), since the bank's rows lead all products.
    scaled = (queries * (math.log2(math.e) / temperature)).T.contiguous()
    if half_products:
        scaled = scaled.bfloat16()
    maximum = queries.new_full((1, rows), -math.inf)
    total = queries.new_zeros(1, rows)
    weighted = queries.new_zeros(rows, dim)
    negatives_buffer = queries.new_empty(min(CHUNK, num), dim)
    logits_buffer = queries.new_empty(min(CHUNK, num), rows)
    if half_products:
        half_negatives = negatives_buffer.bfloat16()
        half_buffer = logits_buffer.bfloat16()
    for start in range(0, num, CHUNK):
        stop = min(start + CHUNK, num)
        if exclusion.all_empty(start, stop):
            continue
        negatives = negatives_buffer[: stop - start].copy_(bank[start:stop])
        logits = logits_buffer[: stop - start]
        if half_products:
            # By way of float32, since torch converts fp16 to bf16 a number at a time.
            negatives = half_negatives[: stop - start].copy_(negatives)
            half = half_buffer[: stop - start]
            logits.copy_(torch.mm(negatives, scaled, out=half))
        else:
            torch.mm(negatives, scaled, out=logits)
        exclusion.apply(logits, start)
        largest = torch.maximum(maximum, logits.amax(dim=0, keepdim=True))
        # A query without any negative so far has the maximum -inf; 0 in its place keeps -inf - -inf away.
        shift = largest.masked_fill(largest == -math.inf, 0.0)
        weights = torch.exp2(logits.sub_(shift), out=logits)
        decay = torch.exp2(maximum - shift)
        total.mul_(decay).add_(weights.sum(dim=0, keepdim=True))
        weighted.mul_(decay.T)
        if half_products:
            weighted.add_(torch.mm(half.copy_(weights).T, negatives))
        else:
            weighted.addmm_(weights.T, negatives)
        maximum = largest
    lse = (total.log() + maximum * math.log(2)).squeeze(0)
    mean_negative = weighted / total.masked_fill(total == 0, 1.0).T
    return lse, maximum.squeeze(0) * math.log(2), mean_negative
