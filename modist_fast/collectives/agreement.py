"""That all processes run the same program on the same data, looked at before the first step."""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from modist_fast.errors import ConfigError
from modist_fast.host.environment import package_version
from modist_fast.run.options import spelled
from modist_pipelines.program import program

_LIBRARIES = ("torch", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120")
_OWN = {
    *("store", "videos", "out", "preset", "init_from", "track", "device", "collective_timeout", "hang_minutes"),
    *("loader", "checkpoint", "profile", "follow_videos"),
}
"""Options that may differ from node to node: places, and what changes nothing that is computed."""


def agree_on_program(config: Mapping[str, Any]) -> None:
    """Refuse to train with ranks whose program, libraries or options differ.

    Args:
        config: the run's options as plain values, parts of it within.

    Raises:
        ConfigError: on all ranks, with what each of them has.
    """
    if dist.get_world_size() == 1:
        return  # before all sources are read
    libraries = {name: version for name in _LIBRARIES if (version := package_version(name))}
    options = {name: value for name, value in config.items() if name not in _OWN}
    refuse_difference(
        {"program": program()} | libraries | {f"--{name}": str(value) for name, value in spelled(options).items()}
    )


def agree_on_data(path: Path, fingerprint: str, content: Callable[[], str]) -> None:
    """Refuse to train on stores that differ from rank to rank. Copies made one by one agree by their content.

    Args:
        path: of this rank's.
        fingerprint, content: its two digests, see `ClipSource`; the second is asked for where the first differs.

    Raises:
        ConfigError: on all ranks, with what each of them has.
    """
    if len(set(_everyones(fingerprint))) > 1:
        refuse_difference({f"the data in {path}": content()})


def refuse_difference(mine: Mapping[str, str]) -> None:
    """Compare texts over the ranks; all must call it.

    Raises:
        ConfigError: on all ranks where one differs, naming it and each rank's.
    """
    if dist.get_world_size() == 1:
        return
    everyone = _everyones((_who(), dict(mine)))
    known = [found for _, found in everyone]
    names = dict.fromkeys(name for found in known for name in found)
    differing = [name for name in names if len({found.get(name) for found in known}) > 1]
    if differing:
        said = "; ".join(f"{name}: {_by_rank(name, everyone)}" for name in differing)
        raise ConfigError(
            f"the processes differ, and would train apart: {said}. Bring all nodes to one version of the program, one "
            "command and one store, and start again. Nothing was written; --resume auto goes on."
        )


def _by_rank(name: str, everyone: list[tuple[str, dict[str, str]]]) -> str:
    ranks: dict[str, list[str]] = {}
    for rank, (who, found) in enumerate(everyone):
        ranks.setdefault(found.get(name, "none"), []).append(f"rank {rank}{who}")
    return ", ".join(f"{text} on {' and '.join(where)}" for text, where in ranks.items())


def _who() -> str:
    node = os.environ.get("GROUP_RANK")
    return "" if node is None else f" (node {node}, {socket.gethostname()})"


def _everyones(mine: Any) -> list[Any]:
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
