"""A trained linear layer as a file, with all that one needs to show it other videos."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import OpenedBackbone
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.run.tensor_files import write_tensors

NAME = "linear.safetensors"
_ABOUT = "classifier"


class SavedClassifier(NamedTuple):
    """A linear layer over the features of a backbone.

    Attributes:
        weight, bias: (K, D) and (K,).
        classes: K names.
        unit: features have length 1 before the layer.
        average: over a video's views: "features" before the layer, or "softmax" behind it.
        backbone: the path of the network whose features it takes; in the file it is relative to that, or absolute.
        digest: of that network's weights.
        views: what of a video it saw at test; None of a detector of boxes, which has no views of whole videos.
    """

    weight: Tensor
    bias: Tensor
    classes: Sequence[str]
    unit: bool
    average: str
    backbone: str
    digest: str
    views: ViewsConfig | None

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, V, D) features of views to (N, K) float64."""
        x = torch.from_numpy(features).double()
        if self.average == "features":
            x = x.mean(dim=1, keepdim=True)
        if self.unit:
            x = nn.functional.normalize(x, dim=-1)
        logits = x @ self.weight.double().T + self.bias.double()
        return logits.softmax(dim=-1).mean(dim=1).numpy()

    def check(self, opened: OpenedBackbone, path: Path) -> None:
        """
        Raises:
            ConfigError: `opened` is another network than the one that the classifier was trained on.
        """
        if self.digest and opened.digest() != self.digest:
            raise ConfigError(
                f"{path} was trained on features of {self.backbone}, and {opened.origin} has other weights. Pass the "
                "backbone that it was trained on as --backbone."
            )

    def write(self, folder: Path) -> None:
        """Write `linear.safetensors`; it appears whole or not at all."""
        about = {
            "classes": list(self.classes),
            "unit": self.unit,
            "average": self.average,
            "backbone": self.backbone,
            "digest": self.digest,
            "views": None if self.views is None else asdict(self.views),
        }
        # One entry: safetensors writes several in an order of its own, and equal runs write equal bytes.
        write_tensors(folder / NAME, {"weight": self.weight, "bias": self.bias}, {_ABOUT: json.dumps(about)})


def read_classifier(folder: Path) -> SavedClassifier:
    """What `evaluate linear` or `evaluate finetune` left in its --out.

    Raises:
        ConfigError: nothing there, or a file that cannot be read.
    """
    path = folder / NAME if folder.is_dir() else folder
    if not path.is_file():
        raise ConfigError(
            f"--classifier {folder}: no {NAME} there. Pass the --out of modist evaluate linear (of a backbone that "
            "is not random), finetune or supervised."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        if _ABOUT not in metadata:
            raise ConfigError(f"--classifier {path} is of an older version, which kept no views. Train it again.")
        about: Mapping[str, Any] = json.loads(metadata[_ABOUT])
        classes = about["classes"]
        found = SavedClassifier(
            weight,
            bias,
            classes,
            about["unit"],
            about["average"],
            str(path.parent / about["backbone"]),
            about["digest"],
            None if about["views"] is None else ViewsConfig(**about["views"]),
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"--classifier {path} cannot be read ({type(error).__name__}: {error}). Copy it again, or train it again."
        ) from error
    if (
        weight.dim() != 2
        or not isinstance(classes, list)
        or len(weight) != len(classes)
        or bias.shape != (len(classes),)
    ):
        raise ConfigError(
            f"--classifier {path}: a weight of {tuple(weight.shape)} and a bias of {tuple(bias.shape)} are not those "
            "of its classes. "
            "Copy the file again, or train it again."
        )
    return found
