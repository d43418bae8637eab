"""MoDist (motion distillation) video pre-training: the method and the trainer."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["__version__", "load_backbone"]

__version__ = "0.1.0"


def load_backbone(path: str | PathLike[str]) -> "nn.Module":
    """The visual pathway that a run exported: clips (B, 3, T, H, W) in, pooled features (B, D) out.

    See `modist_fast.run.export.load_backbone`; torch is imported only here, so that the doctor can report its absence.
    """
    from modist_fast.run.export import load_backbone as load

    return load(path)
