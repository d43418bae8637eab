"""The network under evaluation: from a run, from an exported file, or at random."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.models import ResNet, build_visual
from modist_fast.models.resnet import Arch
from modist_fast.run import checkpoint
from modist_fast.run.export import load_backbone, read_card, visual_card
from modist_fast.watch.finite import flaw_of

_EXPORT = "backbone.safetensors"
_VISUAL = "online.visual."  # the visual pathway's place in a checkpoint
RANDOM = "random"


@dataclass(frozen=True)
class BackboneConfig:
    """Which network."""

    backbone: str
    """A run directory, an exported backbone.safetensors, a checkpoint step-*.pt, "random", or "random:RUN" for a
    network shaped as that run's. Random networks get their batch-norm statistics from clips of the training videos."""
    arch: Arch = "r50"
    """Of a random network."""
    width: int = 64
    """Channels of a random network's first convolution."""


@dataclass
class Backbone:
    """A network in eval mode, with its card.

    Attributes:
        is_random: its batch norms know nothing of clips yet.
        origin: where it comes from, in words.
    """

    net: ResNet
    card: dict[str, Any]
    origin: str
    is_random: bool = False

    def digest(self) -> str:
        """SHA-256 of the weights and batch-norm statistics: equal for a run, its export and its checkpoint."""
        return digest_of(self.net.state_dict())


def digest_of(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_backbone(config: BackboneConfig, seed: int = 0) -> Backbone:
    """Load or make the network.

    Args:
        seed: of a random network's weights.

    Raises:
        ConfigError: nothing there, or something else.
    """
    name, _, run = config.backbone.partition(":")
    if name == RANDOM:
        return _random(config, run, seed)
    path = Path(config.backbone)
    if path.is_dir():
        if (path / _EXPORT).is_file():
            path = path / _EXPORT
        elif (newest := checkpoint.latest(path)) is not None:
            path = newest
        else:
            raise ConfigError(f"--backbone {path} holds neither {_EXPORT} nor a checkpoint: it is no run directory.")
    if path.suffix == ".pt":
        return _from_checkpoint(path)
    if not path.is_file():
        raise ConfigError(
            f"--backbone {config.backbone} does not exist. Give a run directory, a {_EXPORT}, a checkpoint, or random."
        )
    return Backbone(load_backbone(path), read_card(path), f"exported: {path}")


def _random(config: BackboneConfig, run: str, seed: int) -> Backbone:
    card: dict[str, Any] = {"arch": config.arch, "width": config.width}
    if run:
        card = _card_of_run(Path(run))
    net = _build(card["arch"], card["width"], seed)
    # Training begins with residual branches that are nothing. The baseline is a random network, not the first
    # convolution and random shortcuts alone, which are weaker.
    net.scale_residuals(1.0)
    return Backbone(net, card, f"random {card['arch']} of width {card['width']}, seed {seed}", is_random=True)


def _build(arch: Arch, width: int, seed: int) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_visual(arch, width).eval()


def _card_of_run(run: Path) -> dict[str, Any]:
    if run.is_file():
        return read_card(run)
    if (run / _EXPORT).is_file():
        return read_card(run / _EXPORT)
    try:
        return visual_card(json.loads((run / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--backbone random:{run}: no run directory with an export or a config.json there."
        ) from error


def _from_checkpoint(path: Path) -> Backbone:
    try:
        state = checkpoint.read_undamaged(path, torch.device("cpu"))
        card = visual_card(state["config"]) | {"steps": state["step"]}
        tensors = {key.removeprefix(_VISUAL): value for key, value in state["model"].items() if key.startswith(_VISUAL)}
        if card["arch"] not in get_args(Arch):
            raise ValueError(f"arch {card['arch']!r}")
        net = _build(card["arch"], card["width"], 0)
        net.load_state_dict(tensors)
        if flaw := flaw_of(tensors):
            raise ValueError(f"it {flaw}")
        if not checkpoint.has_its_digest(state):
            raise ValueError("its content is not what was saved: the digest differs")
    except Exception as error:  # torch.load raises whatever its unpickler meets
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(
            f"--backbone {path} is no checkpoint that can be read ({type(error).__name__}: {reason})."
        ) from error
    return Backbone(net, card, f"checkpoint: {path}")
