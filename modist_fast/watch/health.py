"""Signs of how the embeddings are doing that the loss cannot show.

Against a bank, a query can be right for the wrong reason: where the nets drift, fresh keys differ from all stored
ones. Within a batch all keys are of one age, so retrieval there is honest.
"""

import math

import torch
from torch import Tensor

from modist_fast.bank import KeyBank

MODALITIES = ("visual", "motion")


@torch.no_grad()
def spread(keys: Tensor) -> dict[str, Tensor]:
    """How far the keys (M, B, C) of a batch lie apart: 1 for directions spread evenly, 0 for collapsed ones."""
    values = keys.std(dim=1).mean(dim=1) * math.sqrt(keys.shape[-1])
    return {f"spread_{name}": value for name, value in zip(MODALITIES, values.unbind(), strict=False)}


@torch.no_grad()
def retrieval(queries: Tensor, keys: Tensor, first: int) -> dict[str, Tensor]:
    """Share of queries whose own key is the nearest of the batch's; chance is 1 / B.

    Args:
        queries: (M, b, C), a part of the batch that begins at sample `first`.
        keys: (M, B, C), the whole batch's.
    """
    own = torch.arange(first, first + queries.shape[1], device=queries.device)

    def share(query: Tensor, key: Tensor) -> Tensor:
        return ((query @ key.T).argmax(dim=1) == own).float().mean()

    shares = {"retrieval_visual": share(queries[0], keys[0])}
    if len(queries) == 2:
        shares |= {
            "retrieval_motion": share(queries[1], keys[1]),
            "retrieval_visual_to_motion": share(queries[0], keys[1]),
            "retrieval_motion_to_visual": share(queries[1], keys[0]),
        }
    return shares


@torch.no_grad()
def uniformity(keys: Tensor) -> dict[str, Tensor]:
    """How evenly the keys (M, B, C) cover the sphere: log E exp(-2 |x - y|²) over pairs (Wang & Isola,
    arXiv:2005.10242); 0 for collapsed ones, -4 for directions at right angles."""
    num = keys.shape[1]
    similarity = keys @ keys.mT
    pairs = torch.exp(4 * similarity - 4).sum(dim=(1, 2)) - num  # |x - y|² = 2 - 2 x·y; each key's pair with itself: 1
    values = torch.log(pairs / (num * (num - 1)))
    return {f"uniformity_{name}": value for name, value in zip(MODALITIES, values.unbind(), strict=False)}


@torch.no_grad()
def bank_health(bank: KeyBank, video_ids: Tensor) -> dict[str, Tensor]:
    """How much of the banks a batch is compared with, and how old that is.

    Args:
        bank: before it takes in the batch.
        video_ids: (B,), negative for samples that do not count.

    Returns:
        bank_filled, the share of slots that hold a key; bank_age, the mean age of these in steps;
        masked_negatives, the share of slots that a query leaves out, empty or of its own video.
    """
    filled = (bank.video_ids >= 0).float()
    counted = (video_ids >= 0).float()
    own = (bank.video_ids == video_ids[:, None]).float().mean(dim=1)
    share = filled.mean()
    return {
        "bank_filled": share,
        # Slots are written in order, a batch a step: the newest is one step old, the oldest filled / B.
        "bank_age": torch.where(share > 0, (filled.sum() / len(video_ids) + 1) / 2, 0.0),
        "masked_negatives": 1 - share + (own * counted).sum() / counted.sum().clamp(min=1),
    }
