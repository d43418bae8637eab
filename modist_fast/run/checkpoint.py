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
from modist_fast.run.compatible import add_newer_options, count_threshold_in_shares, refuse_difference
from modist_fast.run.guard import check_spread, check_zip
from modist_fast.run.options import plain
from modist_fast.run.whole_state import SaveError, cannot_write, digest_of, discard, num_bytes, write_durably
from modist_fast.watch.finite import REMEDY, flaw_of
from modist_pipelines.disk.durable import sync_folder

log = logging.getLogger("modist")

FORMAT = 2
_LATEST = "latest"
_NAME = re.compile(r"step-(\d{8,})\.pt")
_PARTS = ("config", "model")
_HEAD = ("format", "step", "config", "digest")
_ROOM = (
    "Make room or make it writable, and pass --resume auto; with --checkpoint.on-save-error continue a run waits for "
    "its next save."
)
_OTHER_WAY = "start anew with --overwrite or another --out."


class RunConfig(Protocol):
    """The configuration of a run that keeps checkpoints: a dataclass."""

    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def resume(self) -> str: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def requeue_exit_code(self) -> int | None: ...
    @property
    def hang_minutes(self) -> float: ...


def plain_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON-ready values."""
    return plain(dataclasses.asdict(config))  # pyright: ignore[reportArgumentType]


def folder_of(out: Path) -> Path:
    """Where the run in `out` keeps its checkpoints."""
    return out / "checkpoints"


def save(out: Path, step: int, state: dict[str, Any], config: RunConfig) -> Path:
    """Write the state after `step` steps; `latest` names it only once the file is safe on disk.

    Args:
        state: anything torch.load reads back with weights_only=True; `refuse_flaw` has seen it.

    Raises:
        SaveError: the disk did not take it. Nothing of it is left, and what was there before is whole.
    """
    folder = folder_of(out)
    path = folder / f"step-{step:08d}.pt"
    half = folder / f".{path.name}.half"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "step": step, "config": plain_config(config), "digest": digest_of(state)}
        write_durably(head | state, half)
        half.rename(path)
        sync_folder(folder)
        _name_latest(folder, path)
    except SaveError as error:
        raise SaveError(f"after step {step} the state was not saved: {error} {kept(out)} {_ROOM}") from error
    except OSError as error:
        discard(half)
        why = cannot_write(folder, error, num_bytes(state))
        raise SaveError(f"after step {step} the state was not saved: {why} {kept(out)} {_ROOM}") from error
    _prune(folder, path, config.checkpoint)
    return path


def refuse_flaw(out: Path, step: int, state: dict[str, Any]) -> None:
    """Raise ConfigError where the state after `step` has numbers that are not finite."""
    if flaw := flaw_of(state):
        raise ConfigError(f"after step {step} the state {flaw}. It was not saved: {kept(out)} {REMEDY}")


def _name_latest(folder: Path, path: Path) -> None:
    """A small text file: some file systems have no links."""
    half = folder / f".{_LATEST}.half"
    half.unlink(missing_ok=True)  # an older version left a link here, which must not be written through
    with half.open("w", encoding="utf-8") as file:
        file.write(path.name + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.rename(folder / _LATEST)
    sync_folder(folder)


def _prune(folder: Path, newest: Path, config: CheckpointConfig) -> None:
    found = newest_first(folder)
    for path in found[found.index(newest) :][max(1, config.keep) :]:
        discard(path)
    for half in folder.glob(".step-*.half"):
        discard(half)


def step_of(path: Path) -> int:
    """After which step a checkpoint was saved, by its name; -1 of another file."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by their names."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if step_of(path) >= 0), key=step_of, reverse=True)


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
    path, _ = _named(folder_of(out))
    return f"the checkpoint kept is {path}." if path else "there is no checkpoint from before."


def _named(folder: Path) -> tuple[Path | None, str]:
    """The file that `latest` names, or None and the reason. A run of an older version has a link there."""
    file = folder / _LATEST
    if file.is_symlink():
        return (folder / file.resolve().name, "") if file.exists() else (None, f"{file} leads nowhere")
    try:
        name = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None, f"{file} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{file} cannot be read ({error})"
    if not _NAME.fullmatch(name):
        return None, f"{file} names no checkpoint"
    path = folder / name
    return (path, "") if path.is_file() else (None, f"{file} names {name}, which is missing")


def latest(out: Path) -> Path | None:
    """The newest checkpoint that is whole: the one that `latest` names; else the next older, with a warning on rank 0.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        ConfigError: there are some, and none is whole.
    """
    folder = folder_of(out)
    named, problem = _named(folder)
    found = newest_first(folder)
    if named is not None:  # what is newer was not yet durable
        found = [named, *(found[found.index(named) + 1 :] if named in found else found)]
    broken = []
    for path in found:
        try:
            read(path, torch.device("cpu"))
        except ConfigError as error:
            broken.append(str(error).removeprefix(f"checkpoint {folder}/").partition(". ")[0])
            continue
        if (broken or problem) and is_main_process():
            wrong = "; ".join([problem] * bool(problem) + [f"passed over: {reason}" for reason in broken])
            log.warning("WARNING: %s. Taking the newest whole checkpoint there, %s", wrong, path.name)
        return path
    if broken:
        wrong = "; ".join([problem] * bool(problem) + broken)
        raise ConfigError(f"{folder}: no checkpoint there is whole: {wrong}. Bring back a whole one, or {_OTHER_WAY}")
    return None


def load(path: Path, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint that goes on with `config`.

    Raises:
        ConfigError: the file is not whole, or the run computed something else; the message names each option that
            differs.
    """
    state = read(path, device)
    note = count_threshold_in_shares(state["config"]) if state["format"] == 1 else ""
    add_newer_options(state["config"], config)
    refuse_difference(path, state["config"], plain_config(config), _OTHER_WAY + note)
    return state


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
    if not isinstance(state.get("step"), int) or not all(isinstance(state.get(name), dict) for name in _PARTS):
        raise ConfigError(
            f"checkpoint {path} cannot be read (it holds no state of a run). Remove it, and --resume auto goes on from "
            f"the newest whole step-*.pt there; or {_OTHER_WAY}"
        )
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
    if not has_its_digest(state):
        raise ConfigError(
            f"checkpoint {path} cannot be read (its content is not what was saved: the digest differs). Remove it, and "
            f"--resume auto goes on from the newest whole step-*.pt there; or {_OTHER_WAY}"
        )
    return state


def has_its_digest(state: dict[str, Any]) -> bool:
    """Whether the content is what was saved, as far as the file says: one of an older version does not."""
    content = {name: value for name, value in state.items() if name not in _HEAD}
    return "digest" not in state or state["digest"] == digest_of(content)


def read_undamaged(path: Path, device: torch.device) -> dict[str, Any]:
    """What a checkpoint holds, of whatever format.

    Raises:
        Exception: of any kind, where it is damaged.
    """
    check_zip(path)
    with zipfile.ZipFile(path) as parts:  # torch.load takes flipped bits for weights
        if (part := parts.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state of a run")
    check_spread(state)
    return state
