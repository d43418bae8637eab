"""The objective: L = Lv + Lm + Lmv (paper, Eq. 1 to 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from modist_fast.bank import KeyBank
from modist_fast.config import ObjectiveConfig
from modist_kernels import queue_infonce

TERMS = ("visual", "motion", "visual_to_motion", "motion_to_visual")


class LossTerms(NamedTuple):
    """The objective and what it is made of. `loss` alone carries a gradient."""

    loss: Tensor
    """() float32: the sum of the terms in use, mean over the samples that count."""
    losses: Tensor
    """(T,) float32: mean of each term, in the order of `TERMS`; T = 4, or 1 for RGB-only."""
    top1: Tensor
    """(T,) float32: share of queries whose positive is nearer than all their negatives."""
    positive: Tensor
    """(T,) float32: mean cosine of query and positive."""


def motion_distillation_loss(
    queries: Tensor,
    keys: Tensor,
    bank: KeyBank,
    video_ids: Tensor,
    config: ObjectiveConfig,
    groups: int = 1,
    cross_weight: Tensor | None = None,
) -> LossTerms:
    """The contrastive terms of a batch against the banks.

    Args:
        queries: (M, B, C) unit vectors of the online nets, with gradient; 0 visual, 1 motion.
        keys: (M, B, C) unit vectors of the momentum nets, row b from the same video as query b.
        bank: negatives; those of a query's own video and empty slots are left out.
        video_ids: (B,) int32, the video of each query; negative for a sample that does not count.
        config: temperature, negatives of Lmv, and whether Lm counts.
        groups: equal parts of the batch, one after another, that weigh the same however many of their samples count.
        cross_weight: () float32, of Lmv; None is 1.
    """
    result = queue_infonce(
        queries,
        keys,
        bank.keys,
        bank.video_ids,
        video_ids,
        temperature=config.temperature,
        cross_negatives=config.cross_negatives,
    )
    kept = (video_ids >= 0).to(result.losses.dtype).view(groups, -1)
    # Rows add up to their mean over the samples that count, of each group, and the groups to theirs.
    kept = (kept / kept.sum(dim=1, keepdim=True).clamp(min=1) / groups).flatten()
    losses = result.losses @ kept
    weights = torch.ones_like(losses)
    if config.motion and not config.motion_loss:
        weights[TERMS.index("motion")] = 0.0
    if config.motion and cross_weight is not None:
        weights[TERMS.index("visual_to_motion") :] = cross_weight
    return LossTerms(
        loss=(losses * weights).sum(),
        losses=losses.detach(),
        top1=result.top1 @ kept,
        positive=result.positive @ kept,
    )
