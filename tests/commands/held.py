"""Run a launch script that holds still once a run has written some steps: held.py STEPS RUN SCRIPT [its options].

RUN.held says that it does; it goes on when that file is gone. So a signal finds it there, however fast it is. STEPS may
be several, 4,8: each once, however often they are taken. A signal that asks the process to end lets it go on as well.
"""

import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modist_fast.loop import TrainingLoop
from modist_fast.watch.run_log import RunLog


def held_file(run: Path) -> Path:
    return run.with_name(f"{run.name}.held")


def _hold(steps: set[int], run: Path) -> None:
    original, request = RunLog.write, TrainingLoop._request_stop
    held = held_file(run)

    def write(self: RunLog, row: Mapping[str, Any]) -> None:
        original(self, row)
        done = held.with_name(f"{held.name}-{row['step']}")
        if row["step"] in steps and Path(self._file.name).parent == run and not done.exists():
            done.touch()
            held.touch()
            while held.exists():
                time.sleep(0.02)

    def request_stop(self: TrainingLoop, signum: int) -> None:
        request(self, signum)
        held.unlink(missing_ok=True)

    RunLog.write, TrainingLoop._request_stop = write, request_stop


if __name__ == "__main__":
    _hold(set(map(int, sys.argv[1].split(","))), Path(sys.argv[2]))
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
