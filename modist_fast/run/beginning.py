"""Where a run begins: in a directory without one, in the place of an old one, or where it was left off."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modist_fast.errors import ConfigError
from modist_fast.host.distributed import World, on_main
from modist_fast.run import checkpoint
from modist_fast.run.checkpoint import RunConfig
from modist_fast.run.files import RUN, listed, refuse_taken, remove, traces

log = logging.getLogger("modist")

# Written only after a checkpoint.
_FINISHED = (
    "latest",
    "budget.json",
    "loss.png",
    "backbone.safetensors",
    "backbone.json",
    "linear.safetensors",
    "result.json",
    "confusion.png",
)


def claim(out: Path, config: RunConfig, world: World, written: Sequence[str] = RUN) -> None:
    """Take a directory for a run; with --overwrite, remove the files of the run that it holds.

    To be called when all that the run needs has been opened, so that a wrong option costs no old run.

    Args:
        written: what such a run writes, RUN or FINETUNING.

    Raises:
        ConfigError: it holds a run that is neither to be gone on with nor to be overwritten, or nothing that could be
            gone on with.
    """
    on_main(world, lambda: _claim(out, config, written))


def _claim(out: Path, config: RunConfig, written: Sequence[str]) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file. Choose a folder.")
    found = traces(out, written)
    if not found:
        return
    if config.overwrite:
        remove(out, found)
        log.warning("--overwrite: removed the run in %s: %s", out, listed(out, found))
    elif config.resume != "auto":
        refuse_taken(out, found)
    elif not any(path.parent.name == "checkpoints" for path in found):
        _refuse_lost(out, found, config)


def resume(
    out: Path, config: RunConfig, world: World, identity: Mapping[str, Callable[[], str]], begun_with: str
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint from which the run in `out` goes on, and its state; None for a run that begins.

    Args:
        out: in a directory that was claimed.
        identity: keys of the state, and what gives their values now, fingerprints of the data: one of them is as it was
            when the run began. The cheapest first; the others are asked for where it is not.
        begun_with: what that is, in words that follow "was trained on other", ending in what to do about it.

    Raises:
        ConfigError: the run in `out` was another one, or its checkpoints are damaged or gone.
    """
    if config.resume != "auto":
        return None
    path = on_main(world, lambda: _newest(out, config))
    if path is None:
        return None
    state = checkpoint.load(path, config, world.device)
    if not any(state.get(key) == value() for key, value in identity.items()):
        raise ConfigError(
            f"--resume: checkpoint {path} was trained on other {begun_with}, or begin anew with --overwrite or another "
            "--out."
        )
    return path, state


def _newest(out: Path, config: RunConfig) -> Path | None:
    path = checkpoint.latest(out)
    if path is None:
        found = traces(out)
        _refuse_lost(out, found, config)
        if found:
            log.warning("WARNING: the run in %s was stopped before its first checkpoint. It begins at step 0", out)
        else:
            log.info("--resume auto: no run in %s yet; this one begins at step 0", out)
    return path


def _refuse_lost(out: Path, found: Sequence[Path], config: RunConfig) -> None:
    """Raise ConfigError where the run in `out`, of which no checkpoint is left, must have had one."""
    finished = [path for path in found if path.name in _FINISHED]
    steps = _steps_taken(out)
    if finished:
        names = ", ".join(str(path.relative_to(out)) for path in finished)
        reason = f"one was written before {names}"
    elif steps > 2 * _every(out, config):
        # Until then the first may not have been whole, for it is written behind the steps: such a run repeats them.
        reason = f"its metrics.jsonl reaches step {steps}, which beginning anew would drop"
    else:
        return
    raise ConfigError(
        f"--resume auto: {out} holds a run ({listed(out, found)}) without a checkpoint, and {reason}. Bring back "
        "its checkpoints, pass --overwrite to remove it and begin anew, or choose another --out."
    )


def _every(out: Path, config: RunConfig) -> int:
    """Steps from one checkpoint to the next, the fewer of those the run was begun with and those of now."""
    try:
        begun_with = json.loads((out / "config.json").read_text(encoding="utf-8"))["checkpoint"]["every"]
        return min(int(begun_with), config.checkpoint.every)
    except (OSError, ValueError, KeyError, TypeError):
        return config.checkpoint.every


def _steps_taken(out: Path) -> int:
    """Steps that metrics.jsonl tells of: a line is one, whether or not it can be read."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
