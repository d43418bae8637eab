"""The visual pathway as a file that anyone can load: safetensors, and a JSON card that says what it is."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from modist_fast.errors import ConfigError
from modist_fast.host.whole_file import whole_file
from modist_fast.models import BACKBONES, Backbone, build_visual
from modist_fast.run.checkpoint import kept
from modist_fast.run.tensor_files import write_tensors
from modist_fast.watch.finite import REMEDY, flaw_of
from modist_pipelines.ranges import COUNT, POSITIVE, Range

FORMAT = "modist-backbone"
VERSION = 1
_CHANNELS = 3
_WIDEST = 4096
_VALUES = dict.fromkeys(("crop_size", "num_frames", "stride"), COUNT) | {"mean": Range(), "std": POSITIVE}
"""What a card may say of clips."""


def export_backbone(visual: nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write the weights to `path` (.safetensors) and the card beside it (.json); each appears whole or not at all.

    Args:
        visual: the visual backbone, without its head.
        card: at least `arch` and `width`, from which `load_backbone` builds the network.

    Raises:
        ConfigError: the weights or statistics are not finite. Nothing was written.
    """
    tensors = visual.state_dict()
    refuse_flaw(tensors, path, card.get("finetune_steps", card.get("steps")))
    write_tensors(path, tensors, {"format": "pt"})
    with whole_file(path.with_suffix(".json")) as half:
        half.write_text(json.dumps({"format": FORMAT, "version": VERSION, **card}, indent=2) + "\n", encoding="utf-8")


def refuse_flaw(tensors: Mapping[str, Any], path: Path, steps: int | None) -> None:
    """Raise ConfigError where numbers that were to be written to `path`, in a run's directory, are not finite."""
    if flaw := flaw_of(tensors):
        when = "" if steps is None else f"after step {steps} "
        raise ConfigError(f"{when}the network {flaw}. {path} was not written: {kept(path.parent)} {REMEDY}")


def visual_card(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a run's backbone says of the network and the clips that it expects.

    Args:
        config: of the run, as `checkpoint.plain_config` writes it.
    """
    model, clips = config["model"], config["clips"]
    return {
        "arch": model["arch"],
        "width": model["visual_width"],
        "crop_size": clips["crop_size"],
        "num_frames": clips["visual"]["num_frames"],
        "stride": clips["visual"]["stride"],
        "mean": clips["augmentation"]["mean"],
        "std": clips["augmentation"]["std"],
        "preset": config["preset"],
    }


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of an exported backbone.

    Raises:
        ConfigError: it is missing, of another format, or names no network.
    """
    card_path = Path(path).with_suffix(".json")
    try:
        card = dict(json.loads(card_path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"backbone {path}: its card {card_path.name} cannot be read ({error}). Keep the .safetensors and the "
            ".json of an export together."
        ) from error
    if (card.get("format"), card.get("version")) != (FORMAT, VERSION):
        raise ConfigError(
            f"{card_path} is a card of format {card.get('format')!r} version {card.get('version')!r}; this version of "
            f"modist-fast reads {FORMAT!r} version {VERSION}. Export the backbone again."
        )
    width = card.get("width")
    if not isinstance(card.get("arch"), str) or card["arch"] not in BACKBONES or not _is_width(width):
        raise ConfigError(
            f"{card_path} names no network: arch {card.get('arch')!r}, width {width!r}; arch is one of "
            f"{', '.join(BACKBONES)}, width a whole number from 1 to {_WIDEST}. Export the backbone again."
        )
    wrong = {name: card[name] for name, within in _VALUES.items() if name in card and not _is_in(card[name], within)}
    if wrong:
        name, value = next(iter(wrong.items()))
        raise ConfigError(f"{card_path}: {name} is {value!r}, and must be {_VALUES[name]}. Export the backbone again.")
    return card


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _WIDEST


def _is_in(value: Any, within: Range) -> bool:
    """Of a list, such as a mean for each channel, all numbers."""
    if isinstance(value, list):
        return 1 <= len(value) <= _CHANNELS and all(not isinstance(one, list) and _is_in(one, within) for one in value)
    is_number = isinstance(value, int if within is COUNT else int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e6 and within.holds(value)


def load_backbone(path: str | os.PathLike[str]) -> Backbone:
    """The exported visual pathway as a plain module in eval mode: (B, 3, T, H, W) to (B, D) float32.

    Clips are RGB in [0, 1], normalized with the card's `mean` and `std`, `num_frames` frames `stride` apart.

    Raises:
        ConfigError: card or weights are missing or damaged, do not fit each other, or are not finite.
    """
    card = read_card(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"backbone {path} cannot be read ({error}). Export or copy it again.") from error
    if flaw := flaw_of(tensors):
        raise ConfigError(
            f"backbone {path} {flaw}. An older version exported it after training had diverged. Use an older "
            f"checkpoint of that run, or train it again. {REMEDY}"
        )
    try:
        with torch.device("meta"):  # a width that the tensors have not must not be made first
            build_visual(card["arch"], card["width"]).load_state_dict(tensors, assign=True)
        net = build_visual(card["arch"], card["width"])
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            f"backbone {path} does not fit its card (arch {card['arch']}, width {card['width']}): "
            f"{str(error).splitlines()[1].strip()} Keep the .safetensors and the .json of one export together."
        ) from error
    return net.eval()
