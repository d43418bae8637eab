"""Weights from one library to another: modist convert IN OUT [--to FORMAT]"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from modist_fast.commands.cli import parse_options
from modist_fast.config import OutKind
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.host.choices import Inflation, WeightsFormat


@dataclass(frozen=True)
class ConvertConfig:
    """Read a backbone of any kind that is known, and write it as another."""

    out_is: ClassVar[OutKind] = "either"
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="in")]
    """A run, an exported backbone, a checkpoint, or weights of PySlowFast, PyTorchVideo, torchvision, timm or MoCo."""
    out: Annotated[Path, tyro.conf.Positional]
    """A file with the format's suffix; for huggingface a folder."""
    to: WeightsFormat = "modist"
    """modist: .safetensors and a card. pyslowfast, pytorchvideo: a .pyth with model_state. torchvision: a .pth of a net
    of pictures, convolutions summed over time. onnx, torch-export: a graph. huggingface: a folder for its hub."""
    inflation: Inflation = "mean"
    """How a net of pictures becomes one of clips: mean or centre; see docs/weights.md."""
    overwrite: bool = False
    """Replace OUT."""


def main() -> None:
    config = parse_options(ConvertConfig, description=__doc__)
    from modist_fast.evaluation.backbones import open_backbone  # and torch with it
    from modist_fast.weights.writing import check_format, write_weights

    if config.out.exists() and not config.overwrite:
        raise ConfigError(f"OUT {config.out} is there already. Pass --overwrite to replace it.")
    check_format(config.out, config.to)
    opened = open_backbone(BackboneConfig(backbone=config.weights, inflation=config.inflation))
    what = write_weights(opened.net, opened.card, config.out, config.to)
    print(f"{opened.origin} -> {config.out}: {what}")
