"""Nets that are trained as a whole with labels: backbone, dropout, one linear layer."""

import torch
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.evaluation.places import features_at_places
from modist_fast.models import Backbone

_FIRST_SCALE = 0.01  # deviation of the linear layer's first weights (PySlowFast's FC_INIT_STD)


class LabelledNet(nn.Module):
    """A backbone and the linear layer on it, some of it frozen; how they are joined is the subclass's own.

    Args:
        backbone: trained further, in place.
        num_classes: logits.
        dropout: probability, on the pooled features.
        frozen: this part of the backbone and all before it stay as they are, batch-norm statistics included.

    Raises:
        ConfigError: dropout is no probability, or the backbone has no such part.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5, frozen: str = "none") -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"--dropout {dropout}: give a probability from 0 to below 1.")
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(backbone.num_features, num_classes)
        nn.init.normal_(self.linear.weight, std=_FIRST_SCALE)
        nn.init.zeros_(self.linear.bias)
        self._frozen = _parts(backbone, frozen)
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "LabelledNet":
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def training_parts(self) -> nn.ModuleList:
        """What is not frozen."""
        parts = [*_parts(self.backbone, "all"), self.linear]
        return nn.ModuleList([part for part in parts if part not in self._frozen])


class Classifier(LabelledNet):
    """Clips in, logits out."""

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) to (B, K) float32."""
        return self.linear(self.dropout(self.backbone(clips))).float()

    def at_places(self, clips: Tensor, window: float) -> Tensor:
        """(B, 3, T, H, W) to (B, P, K) float32: logits at each place; see `features_at_places`."""
        return self.linear(self.dropout(features_at_places(self.backbone, clips, window))).float()


def _parts(backbone: Backbone, last: str) -> list[nn.Module]:
    parts = backbone.parts()
    names = list(parts)
    if last not in ("none", "all", *names):
        raise ConfigError(f"--frozen {last}: name one of this backbone's parts ({', '.join(names)}), or none, or all.")
    num = ["none", *names].index(last) if last != "all" else len(names)
    return [module for name in names[:num] for module in parts[name]]


def seed_dropout(seed: int, step: int, group: int) -> None:
    """Make the next forward draw the dropout of one group of samples, whichever process it runs on.

    The nets draw nothing else, so no random state has to be saved, and any number of processes drops the same.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + group)
