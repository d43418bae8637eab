"""A visual backbone as a file of another library, as a graph, or as a folder of the Hugging Face hub."""

import io
import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.host.choices import WeightsFormat
from modist_fast.host.whole_file import whole_file
from modist_fast.models import Backbone, ResNet
from modist_fast.run.export import export_backbone
from modist_fast.weights.inflate import deflate
from modist_fast.weights.names import PYSLOWFAST, PYTORCHVIDEO, TORCHVISION

SUFFIXES: dict[WeightsFormat, tuple[str, ...]] = {
    "modist": (".safetensors",),
    "pyslowfast": (".pyth", ".pth", ".pt"),
    "pytorchvideo": (".pyth", ".pth", ".pt"),
    "torchvision": (".pth", ".pt"),
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
    "huggingface": ("",),
}
_NEEDS = {"onnx": ("onnx", "onnxscript"), "huggingface": ("huggingface_hub",)}


def write_weights(net: Backbone, card: Mapping[str, Any], out: Path, to: WeightsFormat) -> str:
    """Write a backbone without a head.

    Args:
        net: in eval mode.
        card: of it; says for which clips graphs are made.

    Returns:
        What was written, in words.

    Raises:
        ConfigError: the format does not have this network, a library is missing, or the suffix is another's.
    """
    check_format(out, to)
    card = {name: value for name, value in card.items() if name not in ("format", "version")}
    match to:
        case "modist":
            export_backbone(net, out, card)
            return "weights, and their card beside them"
        case "pyslowfast" | "pytorchvideo":
            return _write_slow(net, card, out, to)
        case "torchvision":
            return _write_pictures(net, card, out)
        case "onnx" | "torch-export":
            return _write_graph(net, card, out, to)
        case "huggingface":
            from modist_fast.weights.hub import HubBackbone

            HubBackbone.of(net, card).save_pretrained(out)
            # safetensors makes a file that is its owner's alone.
            (out / "model.safetensors").chmod((out / "config.json").stat().st_mode)
            return "a folder: config.json, model.safetensors, README.md"


def check_format(out: Path, to: WeightsFormat) -> None:
    """
    Raises:
        ConfigError: `out` has not the format's suffix, its folder is not there, or a library is missing.
    """
    if out.suffix not in SUFFIXES[to]:
        wanted = " or ".join(suffix or "no suffix: it is a folder" for suffix in SUFFIXES[to])
        raise ConfigError(f"OUT {out}: give a file of {to} the suffix {wanted}.")
    if not out.parent.is_dir():
        raise ConfigError(f"OUT {out}: the folder {out.parent} is not there. Make it first.")
    if missing := [name for name in _NEEDS.get(to, ()) if find_spec(name) is None]:
        raise ConfigError(f"--to {to} needs {' and '.join(missing)}: pip install {' '.join(missing)}.")


def _write_slow(net: Backbone, card: Mapping[str, Any], out: Path, to: WeightsFormat) -> str:
    _require(card, to, ("r50", "slow-r50") if to == "pytorchvideo" else ("r50", "slow-r50", "r18"))
    naming = PYSLOWFAST if to == "pyslowfast" else PYTORCHVIDEO
    _save({"model_state": naming.theirs(net.state_dict())}, out)
    if card["arch"] == "slow-r50":
        return "model_state, without a head"
    assert isinstance(net, ResNet)
    kernel = "x".join(map(str, net.stem.kernel_size))
    return f"model_state, without a head; conv1 is {kernel} with stride 2 in time, which the library must be told"


def _write_pictures(net: Backbone, card: Mapping[str, Any], out: Path) -> str:
    _require(card, "torchvision", ("r50", "r18", "imagenet-r50", "imagenet-r18"))
    assert isinstance(net, ResNet)
    _save(TORCHVISION.theirs(deflate(net.state_dict())), out)
    mean = "ImageNet's mean and deviation" if net.colours is not None else f"mean {card['mean']} and {card['std']}"
    return f"a state dict of a net of pictures, each convolution summed over time, without fc; for {mean}"


def _write_graph(net: Backbone, card: Mapping[str, Any], out: Path, to: WeightsFormat) -> str:
    frames, side = (_size_of(card, name, out) for name in ("num_frames", "crop_size"))
    clips = torch.zeros(2, 3, frames, side, side)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(net, (clips,), dynamic_shapes=({0: batch},))
    shape = f"(batch, 3, {frames}, {side}, {side})"
    with whole_file(out) as half:
        if to == "torch-export":
            buffer = io.BytesIO()  # it warns of a name that does not end in .pt2
            torch.export.save(program, buffer, extra_files={"card.json": json.dumps(dict(card))})
            half.write_bytes(buffer.getvalue())
        else:
            for name in ("onnx_ir", "onnxscript"):  # they name each constant that they join
                logging.getLogger(name).setLevel(logging.WARNING)
            made = torch.onnx.export(program, input_names=["clips"], output_names=["features"], verbose=False)
            assert made is not None
            made.model.metadata_props["card"] = json.dumps(dict(card))
            made.save(half)
    return f"a graph of {shape} float32 to (batch, {net.num_features})"


def _size_of(card: Mapping[str, Any], name: str, out: Path) -> int:
    if not isinstance(card.get(name), int):
        raise ConfigError(
            f"OUT {out}: a graph is made for clips of one size, and the card does not say {name}. "
            "Export the backbone again from its run."
        )
    return card[name]


def _require(card: Mapping[str, Any], to: str, archs: tuple[str, ...]) -> None:
    if card["arch"] not in archs:
        raise ConfigError(
            f"--to {to}: it has no network like {card['arch']}, only one like {', '.join(archs)}. "
            "Choose another --to, such as onnx."
        )


def _save(state: Mapping[str, Any | Mapping[str, Tensor]], out: Path) -> None:
    with whole_file(out) as half:
        torch.save(state, half)
