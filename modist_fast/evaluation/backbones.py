"""The network under evaluation: from a run, from an exported file, or at random."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.evaluation.data.views import ViewsConfig, ViewSpec, resolve_views
from modist_fast.models import Backbone, build_visual
from modist_fast.run import checkpoint
from modist_fast.run.export import load_backbone, read_card, visual_card
from modist_fast.watch.finite import flaw_of
from modist_fast.weights.reading import read_weights

_EXPORT = "backbone.safetensors"
_VISUAL = "online.visual."  # the visual pathway's place in a checkpoint
RANDOM = "random"


@dataclass
class OpenedBackbone:
    """A network in eval mode, with its card.

    Attributes:
        is_random: its batch norms know nothing of clips yet.
        origin: where it comes from, in words.
    """

    net: Backbone
    card: dict[str, Any]
    origin: str
    is_random: bool = False

    def views(self, config: ViewsConfig) -> ViewSpec:
        """The views that the options and the card come to.

        Raises:
            ConfigError: a value is missing, values do not fit each other, or the net cannot take such clips.
        """
        spec = resolve_views(config, self.card)
        self.net.check_clip(spec.num_frames, spec.crop_size, "--views.num-frames", "--views.crop-size")
        self.net.check_clip(spec.num_frames, spec.test_crop_size, "--views.num-frames", "--views.test-crop-size")
        return spec

    def digest(self) -> str:
        """SHA-256 of the weights and batch-norm statistics: equal for a run, its export and its checkpoint."""
        return digest_of(self.net.state_dict())


def digest_of(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_backbone(config: BackboneConfig, seed: int = 0) -> OpenedBackbone:
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
    if path.name == "latest" and path.parent.name == "checkpoints":
        path = checkpoint.latest(path.parent.parent) or path
    if path.is_dir():
        if (path / _EXPORT).is_file():
            path = path / _EXPORT
        elif (newest := checkpoint.latest(path)) is not None:
            path = newest
        else:
            raise ConfigError(
                f"--backbone {path} holds neither {_EXPORT} nor a checkpoint. Give the --out of a run, or a file."
            )
    if not path.is_file():
        raise ConfigError(
            f"--backbone {config.backbone} does not exist. Give a run directory, a {_EXPORT}, a checkpoint, weights of "
            "PySlowFast, PyTorchVideo, torchvision, timm or MoCo, or random."
        )
    if checkpoint.is_one(path):
        return _from_checkpoint(path)
    if path.suffix == ".safetensors" and (path.with_suffix(".json").is_file() or _has_our_names(path)):
        return OpenedBackbone(load_backbone(path), read_card(path), f"exported: {path}")
    found = read_weights(path, config.inflation)
    return OpenedBackbone(found.net, found.card, f"converted: {path}")


def _has_our_names(path: Path) -> bool:
    """Whether a .safetensors file without a card is one of ours that has lost it."""
    try:
        with safe_open(path, "pt") as file:
            return "stages.res2.0.residual.conv_a.weight" in file.keys()  # noqa: SIM118, no mapping
    except (OSError, SafetensorError):
        return True  # load_backbone says what is wrong with it


def _random(config: BackboneConfig, run: str, seed: int) -> OpenedBackbone:
    card: dict[str, Any] = {"arch": config.arch, "width": config.width}
    if run:
        card = _card_of_run(Path(run))
    net = _build(card["arch"], card["width"], seed)
    # Training begins with residual branches that are nothing. The baseline is a random network, not the first
    # convolution and random shortcuts alone, which are weaker.
    net.scale_residuals(1.0)
    return OpenedBackbone(net, card, f"random {card['arch']} of width {card['width']}, seed {seed}", is_random=True)


def _build(arch: str, width: int, seed: int) -> Backbone:
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
            f"--backbone random:{run}: no run directory with an export or a config.json there. Give the --out of a run."
        ) from error


def _from_checkpoint(path: Path) -> OpenedBackbone:
    try:
        state = checkpoint.read_undamaged(path, torch.device("cpu"))
        card = visual_card(state["config"]) | {"steps": state["step"]}
        tensors = {key.removeprefix(_VISUAL): value for key, value in state["model"].items() if key.startswith(_VISUAL)}
        net = _build(card["arch"], card["width"], 0)
        net.load_state_dict(tensors)
        if flaw := flaw_of(tensors):
            raise ValueError(f"it {flaw}")
        if not checkpoint.has_its_digest(state):
            raise ValueError("its content is not what was saved: the digest differs")
    except Exception as error:  # torch.load raises whatever its unpickler meets
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(
            f"--backbone {path} is no checkpoint that can be read ({type(error).__name__}: {reason}). "
            "Copy it again, or give another one of the run."
        ) from error
    return OpenedBackbone(net, card, f"checkpoint: {path}")
