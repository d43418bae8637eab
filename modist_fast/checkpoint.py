"""Checkpoints: one file holds the whole state of a run; a reader never sees half of one."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Protocol

import torch

from modist_fast.config import CheckpointConfig
from modist_fast.errors import ConfigError

FORMAT = 2
_LATEST = "latest"
# What a resumed run may change: nothing here takes part in the computation.
_FREE = (
    "store",
    "videos",
    "out",
    "preset",
    "device",
    "precision",
    "compile",
    "max_steps",
    "resume",
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


def plain_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON-ready values."""
    return plain(dataclasses.asdict(config))  # pyright: ignore[reportArgumentType]


def plain(value: Any) -> Any:
    """Nested options as JSON-ready values: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def folder_of(out: Path) -> Path:
    """Where the run in `out` keeps its checkpoints."""
    return out / "checkpoints"


def save(out: Path, step: int, state: dict[str, Any], config: RunConfig) -> Path:
    """Write the state after `step` steps; `latest` moves only once the file is safe on disk.

    Args:
        state: anything torch.load reads back with weights_only=True.
    """
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
    older = sorted(path for path in folder.glob("step-*.pt") if path < newest)
    for path in older[: max(0, len(older) + 1 - max(1, config.keep))]:
        path.unlink()
    for half in folder.glob(".step-*.half"):
        half.unlink()


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    link = folder_of(out) / _LATEST
    return link.resolve() if link.exists() else None


def load(path: Path, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint that goes on with `config`.

    Raises:
        ConfigError: the file is damaged or of another format, or the run computed something else; the message
            names each option that differs.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise ConfigError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). Point "
            f"{path.parent / _LATEST} at an older step-*.pt there, or start anew with another --out."
        ) from error
    if state.get("format") not in (1, FORMAT):
        raise ConfigError(
            f"checkpoint {path} has format {state.get('format')!r}, this version reads 1 and {FORMAT}. Resume it with "
            "the version that wrote it, or start anew with another --out."
        )
    note = _count_threshold_in_shares(state["config"]) if state["format"] == 1 else ""
    refuse_difference(path, state["config"], plain_config(config), note)
    return state


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


def resume(
    out: Path, config: RunConfig, device: torch.device, identity: tuple[str, str], begun_with: str
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of the run in `out`, for a run that goes on from there; None where there is none.

    Args:
        identity: a key of the state and its value now: the fingerprint of the data that the run began with.
        begun_with: what that is, in words that follow "was trained on other", ending in what to do about it.

    Raises:
        ConfigError: there is a run, and `config` does not ask to go on with it, or it was another one.
    """
    path = latest(out)
    if path is None:
        return None
    if config.resume != "auto":
        raise ConfigError(
            f"--out {out} already holds a run (up to {path.name}). Pass --resume auto to go on with it, or choose "
            "another --out."
        )
    state = load(path, config, device)
    key, value = identity
    if state[key] != value:
        raise ConfigError(f"--resume: checkpoint {path} was trained on other {begun_with}, or another --out.")
    return path, state


def refuse_difference(path: Path, saved: dict[str, Any], wanted: dict[str, Any], note: str = "") -> None:
    """Raise ConfigError, ending in `note`, where an option that takes part in the computation differs."""
    before, now = flat(_without_free(saved)), flat(_without_free(wanted))
    changed = [
        f"--{key} {now.get(key)} (saved: {before.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--resume: checkpoint {path} belongs to a different run: {'; '.join(changed)}. Repeat the saved "
            f"options, or start anew with another --out.{note}"
        )


def _without_free(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under the names they have on the command line, without the dashes in front."""
    options: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key.replace("_", "-")
        if isinstance(value, dict):
            options |= flat(value, f"{name}.")
        else:
            options[name] = value
    return options
