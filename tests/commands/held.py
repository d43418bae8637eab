"""Run a launch script that holds still once a run has written some steps: held.py STEPS RUN SCRIPT [its options].

RUN.held says that it does; it goes on when that file is gone. So a signal finds it there, however fast it is.
"""

import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modist_fast.watch.run_log import RunLog


def held_file(run: Path) -> Path:
    return run.with_name(f"{run.name}.held")


def _hold(steps: int, run: Path) -> None:
    original = RunLog.write

    def write(self: RunLog, row: Mapping[str, Any]) -> None:
        original(self, row)
        if row["step"] == steps and Path(self._file.name).parent == run:
            (held := held_file(run)).touch()
            while held.exists():
                time.sleep(0.02)

    RunLog.write = write


if __name__ == "__main__":
    _hold(int(sys.argv[1]), Path(sys.argv[2]))
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
