"""Run the launch scripts as users do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from modist_fast.run import checkpoint
from tests.commands.held import held_file

REPOSITORY = Path(__file__).resolve().parents[2]
HANG = 1200
"""Seconds after which a process hangs: far more than any takes on a slow machine that others share."""


def run_script(name: str, *arguments: object, processes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run launch/NAME as a user does, under torchrun if `processes` says so."""
    return run_words(script_command(name, *arguments, processes=processes))


def run_command(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `modist NAME` as a user does who has the wheel."""
    return run_words([sys.executable, "-m", "modist_fast", name, *map(str, arguments)])


def run_words(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, with one thread a process; what it printed is kept as text.

    Args:
        variables: of its environment, beside those of this process.
    """
    return subprocess.run(
        words,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def script_command(name: str, *arguments: object, processes: int | None = None) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes else []
    return [sys.executable, *launcher, str(REPOSITORY / "launch" / name), *map(str, arguments)]


def start_and_signal(command: list[str], run: Path, after_steps: int, send: Callable[[subprocess.Popen], None]) -> int:
    """Start a run, signal it once it has written some steps, before it can write more, and return its exit code."""
    place = next(index for index, word in enumerate(command) if word.startswith(str(REPOSITORY / "launch")))
    holding = [str(Path(__file__).with_name("held.py")), str(after_steps), str(run)]
    process = subprocess.Popen(
        [*command[:place], *holding, *command[place:]],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + HANG
    while not held_file(run).exists():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)
    send(process)
    held_file(run).unlink(missing_ok=True)  # a signal has let it go on already
    return process.wait(timeout=HANG)


def kill_family(process: subprocess.Popen) -> None:
    """Kill a process and all that descend from it, at one moment, and wait until they are gone.

    torchrun's processes have sessions of their own: a signal to its group does not reach them.
    """
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for kind in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(kind)
    process.wait(timeout=HANG)
    psutil.wait_procs(family[1:], timeout=HANG)


def newest(run: Path) -> Path:
    """The checkpoint from which a run would go on."""
    path = checkpoint.latest(run)
    assert path is not None
    return path
