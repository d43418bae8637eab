"""--init-from: a new run that begins with the backbones of another, or of a file."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.host.distributed import World
from modist_fast.pathways import MoDist
from modist_fast.run import checkpoint

log = logging.getLogger("modist")
_ONLINE = "online."
_LEFT = "heads, banks and optimizer begin as ever"


def read_beginning(config: TrainConfig, world: World) -> Callable[[MoDist], None] | None:
    """Read what --init-from names, before a directory is claimed for the run.

    Returns:
        What gives it to a new model, and says so on rank 0; None where nothing is asked, or where a run with
        checkpoints is to be gone on with, which has them in its own.

    Raises:
        ConfigError: nothing there, damaged, or another network than this run's.
    """
    place = config.init_from
    if place is None:
        return None
    if config.resume == "auto" and any(checkpoint.folder_of(config.out).glob("step-*.pt")):
        return None
    if place.partition(":")[0] == "random":
        raise ConfigError(f"--init-from {place}: a run begins at random without it. Name a file or a run directory.")
    with torch.random.fork_rng(devices=[]):  # what is built to be read into draws no number of the run's
        visual, motion, origin = _read(Path(place))

    def begin(model: MoDist) -> None:
        online = model.online
        loaded = [_load(online.visual, visual, "visual", place)]
        if online.motion is not None and motion:
            loaded.append(_load(online.motion, motion, "motion", place))
        model.momentum.load_state_dict(online.state_dict())
        left = "" if online.motion is None or motion else "; the motion backbone, which it has not, and the"
        if world.is_main:
            log.info("--init-from %s: %s%s %s", origin, " and ".join(loaded), left or ";", _LEFT)

    return begin


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], str]:
    """Tensors of the visual and of the motion backbone, none where there is no such one; and where they come from."""
    newest = checkpoint.latest(path) if path.is_dir() else path if path.is_file() and checkpoint.is_one(path) else None
    if newest is not None:  # before its export, which is the visual backbone alone
        state: dict[str, Any] = checkpoint.read(newest, torch.device("cpu"))["model"]
        parts = (
            {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            for prefix in (f"{_ONLINE}visual.", f"{_ONLINE}motion.")
        )
        visual, motion = parts
        if visual:
            return visual, motion, f"checkpoint {newest}"
    try:
        found = open_backbone(BackboneConfig(str(path)))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--backbone", "--init-from")) from error
    return found.net.state_dict(), {}, found.origin


def _load(net: nn.Module, tensors: Mapping[str, Tensor], name: str, place: str) -> str:
    """Give a net its tensors, and say how many.

    Raises:
        ConfigError: they are another network's.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wanted != given:
        key = next(key for key in (*wanted, *given) if wanted.get(key) != given.get(key))
        raise ConfigError(
            f"--init-from {place}: its {name} backbone is another network than this run's: {key} is "
            f"{given.get(key, 'absent')} where {wanted.get(key, 'nothing')} is wanted. Pass the --model.arch, "
            f"--model.{name}-width and --clips.motion-input that it was made with, or another file."
        )
    net.load_state_dict(tensors)
    return f"the {name} backbone ({len(tensors)} tensors)"
