"""Run the launch scripts as users do."""

import os
import subprocess
import sys
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
