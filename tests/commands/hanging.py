"""Run a launch script whose steps stand still on one rank: hanging.py RANK STEP SCRIPT [its options]."""

import os
import runpy
import sys
import time

from modist_fast.pathways import MoDist


def _hang(rank: int, step: int) -> None:
    original, calls = MoDist.update_momentum, []

    def update_momentum(self: MoDist, *args: object) -> None:
        calls.append(1)
        if int(os.environ.get("RANK", 0)) == rank and len(calls) == step:
            while True:
                time.sleep(1.0)
        original(self, *args)  # pyright: ignore[reportArgumentType]

    MoDist.update_momentum = update_momentum  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    _hang(int(sys.argv[1]), int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
