"""Whether a run goes on with what was saved: the options that take part in the computation are the same."""

import dataclasses
from pathlib import Path
from typing import Any

from modist_fast.errors import ConfigError
from modist_fast.run.options import plain, spelled

# What a resumed run may change: nothing here takes part in the computation.
_FREE = (
    "store",
    "videos",
    "cache",
    "cache_gb",
    "out",
    "preset",
    "device",
    "collective_timeout",
    "hang_minutes",
    "precision",
    "tf32",
    "deterministic",
    "compile",
    "graphs",
    "groups_together",
    "follow_videos",
    "max_steps",
    "track",
    "on_collapse",
    "on_bad_step",
    "max_bad_steps",
    "requeue_exit_code",
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


def count_threshold_in_shares(saved: dict[str, Any]) -> str:
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


def refuse_difference(path: Path, saved: dict[str, Any], wanted: dict[str, Any], note: str) -> None:
    """Raise ConfigError, ending in `note`, where an option that takes part in the computation differs."""
    before, now = _without_free(saved), _without_free(wanted)
    # Pre-training alone says by which rule its schedule goes on.
    if "objective" in now and isinstance(before.get("epochs"), int) and now["epochs"] > before["epochs"]:
        now["epochs"] = before["epochs"]
    before, now = spelled(before), spelled(now)
    changed = [
        f"--{key} {now.get(key)} (saved: {before.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--resume: checkpoint {path} belongs to a different run: {'; '.join(changed)}. Repeat the saved "
            f"options, or {note}"
        )


def _without_free(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}
