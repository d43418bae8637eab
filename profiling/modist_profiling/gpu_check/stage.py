"""What a stage of gpu_check.py is, and what the table of them depends on."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modist_profiling.gpu_check.findings import Findings, nothing

REPOSITORY = Path(__file__).resolve().parents[3]
OUT, WORK = "OUT", "WORK"
"""Stand in commands for the folder that is kept and for the one beside it with videos, stores and runs."""


@dataclass(frozen=True)
class Stage:
    """A command of the check."""

    name: str
    """`--only` takes it, or what stands before one of its dashes."""
    what: str
    command: tuple[str, ...]
    """Run from the top of the checkout; `OUT` and `WORK` stand for the two folders."""
    limit: float
    """Seconds."""
    makes: tuple[str, ...] = ()
    """Files below OUT; the stage has failed where one is missing."""
    needs: tuple[str, ...] = ()
    """Stages that must have succeeded."""
    stdout: str = ""
    """File below OUT for standard output; the log has both streams otherwise."""
    work: str = ""
    """What it leaves below WORK for the stages that need it."""
    kept: dict[str, str] = field(default_factory=dict)
    """What is copied into OUT afterwards: path below WORK to path below OUT."""
    read: Callable[[Path], Findings] = nothing
    """Figures, and what is wrong with them, from OUT."""
    obstacle: str = ""
    """Why this machine cannot run it; then nobody is to blame."""


@dataclass(frozen=True)
class Setting:
    """What the table depends on."""

    dry_run: bool = False
    num_gpus: int = 1
    memory_gb: float = 0.0
    """Of the first GPU."""
    write: bool = False
    """Whether the kernel table is edited."""


def python(*words: object) -> tuple[str, ...]:
    """A command of this interpreter."""
    return (sys.executable, *map(str, words))
