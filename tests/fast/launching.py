"""Run the launch scripts as users do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_script(name: str, *arguments: object, processes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run launch/NAME as a user does, under torchrun if `processes` says so."""
    return subprocess.run(
        script_command(name, *arguments, processes=processes),
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def script_command(name: str, *arguments: object, processes: int | None = None) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes else []
    return [sys.executable, *launcher, str(REPOSITORY / "launch" / name), *map(str, arguments)]


def start_and_signal(command: list[str], run: Path, after_steps: int, send: Callable[[subprocess.Popen], None]) -> int:
    """Start a run, wait until it has written some steps, signal it, and return its exit code."""
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < after_steps:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)
    send(process)
    return process.wait(timeout=120)
