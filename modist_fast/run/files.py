"""The files by which a run is known: found before another begins in their place, and removed for it."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from modist_fast.errors import ConfigError

RUN = (
    "config.json",
    "environment.json",
    "clips.png",
    "log.txt",
    "metrics.jsonl",
    ".metrics.jsonl.*.half",
    "ledger.jsonl",
    ".ledger.jsonl.*.half",
    "budget.jsonl",
    ".budget.jsonl.*.half",
    "budget.json",
    "loss.png",
    "backbone.safetensors",
    "backbone.json",
    ".backbone.json.*.half",
    "linear.safetensors",
    ".*.safetensors.*.half",
    "tensorboard/events.out.tfevents.*",
    "hang-rank*.txt",
    "profile/trace-rank*.json.gz",
    "profile/memory-rank*.pickle",
    "checkpoints/step-*.pt",
    "checkpoints/latest",
    "checkpoints/.step-*.half",
    "checkpoints/.latest.half",
)
"""What a run writes into its directory. Nothing else there is ever removed."""

FINETUNING = (
    *RUN,
    *(
        "result.json",
        "confusion.png",
        "detections.csv",
        ".detections.csv.*.half",
        "curves.png",
        "keyframes.png",
        "shares.png",
    ),
    *(f"folds/*/{pattern}" for pattern in RUN),
)
"""The same of a fine-tuning run, whose folds are runs."""


def traces(out: Path, written: Sequence[str] = RUN) -> list[Path]:
    """The files in `out` that a run left there. An empty folder is no trace, nor is a log alone: nothing is lost.

    Args:
        written: RUN or FINETUNING.
    """
    found = [path for pattern in written for path in _matches(out, pattern)]
    return [] if [path.name for path in found] == ["log.txt"] else found


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    first, _, rest = pattern.partition("/")
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if fnmatchcase(path.name, first):
            if rest:
                yield from _matches(path, rest)
            elif path.is_symlink() or path.is_file():  # a link that leads nowhere, too
                yield path


def listed(out: Path, paths: Sequence[Path]) -> str:
    """Files in `out` in one line: those of a folder as their number."""
    inside = Counter(path.relative_to(out).parts[0] for path in paths if path.parent != out)
    names = [path.name for path in paths if path.parent == out]
    return ", ".join([*names, *(f"{num} file{'s' * (num > 1)} in {name}/" for name, num in inside.items())])


def remove(out: Path, paths: Sequence[Path]) -> None:
    """Remove files below `out`, and the folders below it that are empty without them.

    Raises:
        ConfigError: one cannot be removed.
    """
    try:
        for path in paths:
            path.unlink()
        folders = {folder for path in paths for folder in path.parents if out in folder.parents}
        for folder in sorted(folders, reverse=True):  # the inner ones first
            if not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise ConfigError(
            f"--overwrite: {error.filename} cannot be removed ({error.strerror}). Make it yours to remove, or choose "
            "another --out."
        ) from error


def refuse_taken(out: Path, found: Sequence[Path]) -> None:
    """
    Raises:
        ConfigError: `found` in `out` are files of a run, which is neither to be gone on with nor to be overwritten.
    """
    if found:
        raise ConfigError(
            f"--out {out} already holds a run ({listed(out, found)}). Pass --resume auto to go on with it, --overwrite "
            "to remove it and begin anew, or choose another --out."
        )


def refuse_other_task(out: Path, task: str) -> None:
    """Keep the results of several tasks apart.

    Raises:
        ConfigError: `out` holds the result of another.
    """
    path = out / "result.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["task"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else"
    if found != task:
        raise ConfigError(f"--out {out} holds the result of {found}, which {task} would replace. Choose another --out.")
