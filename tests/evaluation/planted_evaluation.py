"""Evaluate and die: planted_evaluation.py [evaluate.py's arguments] kills itself as its second shard would appear."""

import os
import runpy
import signal
import sys
from pathlib import Path

original = os.replace


def replace(half: Path, whole: Path) -> None:
    if Path(whole).name == "00001.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    original(half, whole)


if __name__ == "__main__":
    os.replace = replace  # type: ignore[assignment]
    script = Path(__file__).resolve().parents[2] / "launch" / "evaluate.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
