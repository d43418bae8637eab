"""Signs of how the embeddings are doing that the loss cannot show.

Against a bank, a query can be right for the wrong reason: where the nets drift, fresh keys differ from all stored
ones. Within a batch all keys are of one age, so retrieval there is honest.
"""

import math

import torch
from torch import Tensor

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
