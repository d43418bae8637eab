"""Checkpoints: one file holds the whole state of a run; a reader never sees half of one."""

import dataclasses
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch

from modist_fast.config import CheckpointConfig
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import is_main_process
from modist_fast.run.options import plain, spelled
from modist_fast.watch.finite import REMEDY, flaw_of

log = logging.getLogger("modist")

FORMAT = 2
_LATEST = "latest"
_NAME = re.compile(r"step-(\d{8,})\.pt")
_OTHER_WAY = "start anew with --overwrite or another --out."
# What a resumed run may change: nothing here takes part in the computation.
_FREE = (
    "store",
    "videos",
    "out",
    "preset",
    "device",
    "collective_timeout",
    "precision",
    "compile",
    "graphs",
    "groups_together",
    "max_steps",
    "resume",
    "overwrite",
    "loader",
    "checkpoint",
    "profile",
    # Of fine-tuning, whose fingerprint says what these come to.
    "network",
    "data",
    "split",
    "num_threads",
)


class RunConfig(Protocol):
    """The configuration of a run that keeps checkpoints: a dataclass."""

    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def resume(self) -> str: ...
    @property
    def overwrite(self) -> bool: ...


def plain_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON-ready values."""
    return plain(dataclasses.asdict(config))  # pyright: ignore[reportArgumentType]


def folder_of(out: Path) -> Path:
    """Where the run in `out` keeps its checkpoints."""
    return out / "checkpoints"


def save(out: Path, step: int, state: dict[str, Any], config: RunConfig) -> Path:
    """Write the state after `step` steps; `latest` moves only once the file is safe on disk.

    Args:
        state: anything torch.load reads back with weights_only=True.

    Raises:
        ConfigError: the state has numbers that are not finite. Nothing was written.
    """
    if flaw := flaw_of(state):
        raise ConfigError(f"after step {step} the state {flaw}. It was not saved: {kept(out)} {REMEDY}")
    folder = folder_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    half = folder / f".{path.name}.half"
    with half.open("wb") as file:
        torch.save({"format": FORMAT, "step": step, "config": plain_config(config), **state}, file)
        file.flush()
        os.fsync(file.fileno())
    half.rename(path)
    _sync(folder)
    link = folder / f".{_LATEST}.half"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.rename(folder / _LATEST)
    _sync(folder)
    _prune(folder, path, config.checkpoint)
    return path


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, not only the bytes behind them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, newest: Path, config: CheckpointConfig) -> None:
    found = _newest_first(folder)
    for path in found[found.index(newest) :][max(1, config.keep) :]:
        path.unlink()
    for half in folder.glob(".step-*.half"):
        half.unlink()


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by their names."""
    if not folder.is_dir():
        return []
    named = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True)]


def is_one(path: Path) -> bool:
    """Whether a file is a checkpoint of this program: by its name, whole or not, or by what is in it."""
    if _NAME.fullmatch(path.name):
        return True
    if path.suffix != ".pt":
        return False
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch.load raises whatever its unpickler meets
        return False
    return isinstance(found, dict) and found.keys() >= {"format", "step", "config", "model"}


def kept(out: Path) -> str:
    """In a sentence, the checkpoint from which the run in `out` can go on."""
    link = folder_of(out) / _LATEST
    return f"the checkpoint kept is {link.resolve()}." if link.exists() else "there is no checkpoint from before."


def latest(out: Path) -> Path | None:
    """The checkpoint that `latest` names. Where it names none, the newest whole one, with a warning on rank 0.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        ConfigError: there are some and `latest` names none, but no other is whole either.
    """
    folder = folder_of(out)
    link = folder / _LATEST
    if link.exists():
        return link.resolve()
    problem = f"{link} leads nowhere" if link.is_symlink() else f"{link} is missing"
    broken = []
    for path in _newest_first(folder):
        try:
            read(path, torch.device("cpu"))
        except ConfigError as error:
            broken.append(str(error).removeprefix(f"checkpoint {folder}/").partition(". ")[0])
            continue
        if is_main_process():
            skipped = f"; passed over: {'; '.join(broken)}" if broken else ""
            log.warning("WARNING: %s. Taking the newest whole checkpoint there, %s%s", problem, path.name, skipped)
        return path
    if broken:
        raise ConfigError(
            f"{problem}, and no checkpoint there is whole: {'; '.join(broken)}. Bring back a whole one, or {_OTHER_WAY}"
        )
    return None


def load(path: Path, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint that goes on with `config`.

    Raises:
        ConfigError: the file is not whole, or the run computed something else; the message names each option that
            differs.
    """
    state = read(path, device)
    note = _count_threshold_in_shares(state["config"]) if state["format"] == 1 else ""
    add_newer_options(state["config"], config)
    refuse_difference(path, state["config"], plain_config(config), note)
    return state


def add_newer_options(saved: dict[str, Any], config: Any) -> None:
    """Give options that did not exist when a run was saved their defaults: an option's default is what was before it.

    Args:
        saved: changed in place.
        config: the dataclass of today, whose parts are looked at likewise.
    """
    for option in dataclasses.fields(config):
        today = getattr(config, option.name)
        if dataclasses.is_dataclass(today) and isinstance(saved.get(option.name), dict):
            add_newer_options(saved[option.name], today)
        elif option.name not in saved and option.default is not dataclasses.MISSING:
            saved[option.name] = plain(option.default)


def _count_threshold_in_shares(saved: dict[str, Any]) -> str:
    """Format 1 counted γ in a store's units, [0, 10], which rejected nothing; say in `saved` what it came to.

    Returns:
        A sentence for whoever resumes with another γ.
    """
    clips = saved.get("clips", {})
    applied = saved.get("source") == "store" and saved.get("objective", {}).get("motion")
    if not applied or not clips.get("motion_threshold"):
        return ""
    clips["motion_threshold"] /= 10
    return (
        f" (The run began when --clips.motion-threshold counted in a store's units of [0, 10]; as the share of full "
        f"scale that it is now, its value is {clips['motion_threshold']:g}.)"
    )


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        ConfigError: the file is damaged or of another format, or its numbers are not finite.
    """
    try:
        state = read_undamaged(path, device)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0]
        raise ConfigError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {reason}). Remove it, and --resume auto goes "
            f"on from the newest whole step-*.pt there; or {_OTHER_WAY}"
        ) from error
    if state.get("format") not in (1, FORMAT):
        raise ConfigError(
            f"checkpoint {path} has format {state.get('format')!r}, this version reads 1 and {FORMAT}. Resume it with "
            f"the version that wrote it, or {_OTHER_WAY}"
        )
    if flaw := flaw_of(state):
        raise ConfigError(
            f"checkpoint {path} {flaw}. An older version wrote it after training had diverged. Remove it, and --resume "
            f"auto goes on from the newest whole step-*.pt there; or {_OTHER_WAY}"
        )
    return state


def read_undamaged(path: Path, device: torch.device) -> dict[str, Any]:
    """What a checkpoint holds, of whatever format.

    Raises:
        Exception: of any kind, where it is damaged.
    """
    with zipfile.ZipFile(path) as parts:  # torch.load takes flipped bits for weights
        if (part := parts.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state of a run")
    return state


def refuse_difference(path: Path, saved: dict[str, Any], wanted: dict[str, Any], note: str = "") -> None:
    """Raise ConfigError, ending in `note`, where an option that takes part in the computation differs."""
    before, now = spelled(_without_free(saved)), spelled(_without_free(wanted))
    changed = [
        f"--{key} {now.get(key)} (saved: {before.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--resume: checkpoint {path} belongs to a different run: {'; '.join(changed)}. Repeat the saved "
            f"options, or {_OTHER_WAY}{note}"
        )


def _without_free(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}
