"""MoDist (motion distillation) video pre-training: the method and the trainer."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modist_fast import presets
    from modist_fast.api import evaluate_linear, features, knn, load_backbone, pretrain

__all__ = ["__version__", "evaluate_linear", "features", "knn", "load_backbone", "presets", "pretrain"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for, and torch with it, no sooner: so the doctor can report its absence."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "presets":
        return importlib.import_module("modist_fast.presets")
    return getattr(importlib.import_module("modist_fast.api"), name)
