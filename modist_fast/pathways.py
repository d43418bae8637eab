"""The two pathways, their momentum copies and the banks: everything that training changes.

One module holds it all, so that one state dict is the whole state of the method.
"""

import copy

import torch
from torch import Tensor, nn

from modist_fast.bank import KeyBank
from modist_fast.config import ModelConfig, ObjectiveConfig
from modist_fast.models import ProjectionHead, build_motion, build_visual
from modist_fast.watch.undo import LeaveOut


class Pathways(nn.Module):
    """Backbone and head of each modality; clips in, embeddings out.

    Args:
        motion_channels: of a motion clip; 0 builds no motion pathway.
    """

    def __init__(self, config: ModelConfig, motion_channels: int) -> None:
        super().__init__()
        self.visual = build_visual(config.arch, config.visual_width)
        self.visual_head = _head(self.visual.num_features, config)
        self.motion = build_motion(config.arch, config.motion_width, motion_channels) if motion_channels else None
        self.motion_head = _head(self.motion.num_features, config) if self.motion is not None else None

    def forward(self, visual: Tensor, motion: Tensor | None) -> Tensor:
        """Embed clips.

        Args:
            visual: (B, 3, T, H, W) normalized RGB.
            motion: (B, C, T', H, W) motion maps, or None for RGB-only.

        Returns:
            (M, B, C) float32 unit vectors: 0 visual, 1 motion.
        """
        embeddings = [self.visual_head(self.visual(visual))]
        if self.motion is not None and self.motion_head is not None:
            assert motion is not None, "a motion pathway needs motion clips"
            embeddings.append(self.motion_head(self.motion(motion)))
        return torch.stack(embeddings)


def _head(num_features: int, config: ModelConfig) -> ProjectionHead:
    return ProjectionHead(num_features, config.head_width, config.embedding_dim, config.head, config.head_init)


class MoDist(nn.Module):
    """Online pathways, momentum pathways and banks.

    Args:
        motion_channels: of a motion clip, where the objective has motion.
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, motion_channels: int = 1) -> None:
        super().__init__()
        self.online = Pathways(config, motion_channels if objective.motion else 0)
        self.momentum = copy.deepcopy(self.online).requires_grad_(False)
        num_modalities = 2 if objective.motion else 1
        self.bank = KeyBank(num_modalities, objective.bank_size, config.embedding_dim)

    @torch.no_grad()
    def update_momentum(self, key_momentum: float, leave_out: LeaveOut | None = None) -> None:
        """θ' ← λθ' + (1-λ)θ for all parameters at once.

        Batch-norm statistics are not averaged: the key nets normalize by their own batch, as the online nets do.
        """
        momentum: list[Tensor] = list(self.momentum.parameters())
        online: list[Tensor] = list(self.online.parameters())
        if leave_out is not None:
            leave_out.move_momentum(momentum, online, 1.0 - key_momentum)
        else:
            torch._foreach_lerp_(momentum, online, 1.0 - key_momentum)
