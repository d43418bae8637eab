"""Weights of other people: a file is recognized by the names in it, converted, and what was left out is said."""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.host.choices import Inflation
from modist_fast.models import Backbone, build_visual
from modist_fast.models.foreign import MEAN, STD
from modist_fast.run.guard import check_spread, check_zip
from modist_fast.watch.finite import flaw_of
from modist_fast.weights.inflate import inflate
from modist_fast.weights.names import NAMINGS, Naming

log = logging.getLogger("modist")

# Where a checkpoint keeps the weights, the most telling first: PySlowFast and PyTorchVideo, MoCo and Lightning, others.
_CONTAINERS = ("model_state", "state_dict", "model_state_dict", "model", "module")
# Of several nets in one file: those that follow another by momentum, or teach it.
_FOLLOWERS = ("encoder_k", "momentum", "teacher", "ema", "target")
_SHOWN = 5


@dataclass(frozen=True)
class Weights:
    """A network made of a file, in eval mode.

    Attributes:
        card: as an exported backbone's.
        naming: the library whose names the file has.
        left_out: parts of the file that have no place, each with the number of its tensors.
    """

    net: Backbone
    card: dict[str, Any]
    naming: Naming
    left_out: dict[str, int]


def read_weights(path: Path, inflation: Inflation = "mean") -> Weights:
    """Make a network of the weights in a file of PyTorch or safetensors.

    Args:
        inflation: of a net of pictures; see `inflate`.

    Raises:
        ConfigError: the file cannot be read, holds no residual network that is known, or one whose tensors have other
            shapes or are not finite.
    """
    state = _tensors(path)
    naming, prefix = _recognize(state, path)
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    arch, width = _architecture(inside, naming), len(inside[naming.stem])
    net = build_visual(arch, width)
    ours = net.state_dict()
    # Files of before torch 0.4.1 have no such counts, and nothing reads them.
    counts = {naming.rename(name): tensor for name, tensor in ours.items() if name.endswith("num_batches_tracked")}
    inside = counts | inside
    if naming.of_pictures:
        taps = {naming.rename(name): tensor.shape[2] for name, tensor in ours.items() if tensor.dim() == 5}
        inside = inflate(inside, taps, inflation)
    conversion = naming.ours(inside, net)
    if not conversion.complete:
        raise ConfigError(
            f"{path} is a {arch} of width {width} by {naming.name}'s names, but "
            + "; ".join(_misfits(conversion.missing, conversion.mismatched, naming.rename, prefix))
            + ". It is another network: give weights of one that docs/weights.md names."
        )
    if flaw := flaw_of(conversion.state):
        raise ConfigError(f"{path} {flaw}. Use an older checkpoint of that training.")
    net.load_state_dict(conversion.state)
    outside = [name for name in state if not name.startswith(prefix)] if prefix else []
    left_out = Counter(_part(name) for name in outside)
    left_out.update(prefix + _part(name) for name in conversion.unexpected)
    card = {"arch": arch, "width": width, "mean": MEAN, "std": STD, "crop_size": 224, "num_frames": 8, "stride": 8}
    log.info(
        "%s: %s of width %d, by %s's names%s", path, arch, width, naming.name, f" behind {prefix}" if prefix else ""
    )
    if left_out:
        named = ", ".join(f"{part} ({count})" for part, count in left_out.items())
        log.info("%s: left out, as no part of the backbone: %s", path, named)
    return Weights(net.eval(), card | {"converted_from": naming.name}, naming, dict(left_out))


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by the names that they have in it.

    Python objects are never made: whoever wrote a pickle could run what he likes.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_zip(path):
            check_zip(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        check_spread(found)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds Python objects beside tensors, or is no file of PyTorch, and is not read: such a file can "
            "run code. Save its state dict alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # torch.load raises whatever its unpickler meets
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{path} cannot be read as weights ({reason}). Copy or download it again.") from error
    for name in _CONTAINERS:
        if isinstance(found, Mapping) and isinstance(inner := found.get(name), Mapping):
            found = inner
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise ConfigError(
            f"{path} holds no tensors with names: it is a {type(found).__name__}. "
            "Save a state dict: torch.save(model.state_dict(), FILE)."
        )
    return tensors


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _recognize(state: Mapping[str, Tensor], path: Path) -> tuple[Naming, str]:
    """Whose names a file has, and what stands before them."""
    found = [
        (naming, prefix)
        for naming in NAMINGS
        for prefix in _prefixes(state, naming)
        if state[prefix + naming.stem].dim() == (4 if naming.of_pictures else 5)
    ]
    leaders = [one for one in found if not any(word in one[1] for word in _FOLLOWERS)] or found
    if not leaders:
        shown = ", ".join(list(state)[:_SHOWN])
        raise ConfigError(
            f"{path} holds no residual network by the names of {', '.join(naming.name for naming in NAMINGS)}: its "
            f"tensors are {shown}, … ({len(state)} in all). Give weights of a network that docs/weights.md names."
        )
    if len(leaders) > 1:
        raise ConfigError(
            f"{path} holds several networks: {', '.join(prefix or '(no prefix)' for _, prefix in leaders)}. Save the "
            "one that is wanted by itself."
        )
    return leaders[0]


def _prefixes(state: Mapping[str, Tensor], naming: Naming) -> list[str]:
    stems = [name.removesuffix(naming.stem) for name in state if name.endswith(naming.stem)]
    return [prefix for prefix in stems if prefix + naming.first in state and (not prefix or prefix.endswith("."))]


def _architecture(state: Mapping[str, Tensor], naming: Naming) -> Any:
    depth = "r50" if naming.last in state else "r18"
    if naming.of_pictures:
        return f"imagenet-{depth}"
    return "slow-r50" if depth == "r50" and state[naming.stem].shape[2] == 1 else depth


def _misfits(
    missing: list[str],
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    rename: Callable[[str], str],
    prefix: str,
) -> list[str]:
    parts = [
        f"{prefix}{rename(name)} is {theirs} where {ours} is wanted"
        for name, (theirs, ours) in list(mismatched.items())[:_SHOWN]
    ]
    if missing:
        parts.append(f"lacks {', '.join(prefix + rename(name) for name in missing[:_SHOWN])}")
    more = max(0, len(mismatched) - _SHOWN) + max(0, len(missing) - _SHOWN)
    return [*parts, f"and {more} more"] if more else parts


def _part(name: str) -> str:
    """The first part of a name that says something."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "module" and len(parts) > 1 else parts[0]
