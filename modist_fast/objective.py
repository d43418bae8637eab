"""The objective: L = Lv + Lm + Lmv (paper, Eq. 1 to 3)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modist_fast.bank import KeyBank
from modist_kernels import queue_infonce

CrossNegatives = Literal["own", "other"]
TERMS = ("visual", "motion", "visual_to_motion", "motion_to_visual")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned from what."""

    motion: bool = True
    """False trains RGB-only, Eq. 1 alone: no motion pathway, no motion clips are even read."""
    motion_loss: bool = True
    """False leaves out Lm (Table 3c, "- Lm")."""
    cross_negatives: CrossNegatives = "other"
    """The negatives of Lmv: the positive's modality ("other"), or the query's "own", as Eq. 2 prints. A positive of
    the other modality can be told from negatives of one's own by its modality alone (docs/evidence.md)."""
    cross_warmup_epochs: float = 0.0
    """Epochs over which the weight of Lmv grows from 0 to 1. For `own` negatives, with which Lmv begins far above ln N
    and overshoots (docs/evidence.md)."""
    temperature: float = 0.1
    bank_size: int = 65536
    """Keys in each bank, N of Eq. 1."""
    key_momentum: float = 0.999
    """λ of θ' ← λθ' + (1-λ)θ."""
    shuffle_bn: bool = True
    """Keys are normalized among other samples than their queries: batch statistics cannot leak the match."""


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
