"""Ends a process whose steps stand still, and says where each rank stands."""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

CODE = 3
"""Exit code of a process that is ended so."""
_OTHERS = 5.0  # seconds in which the other ranks say where they stand


class HangWatcher:
    """A thread beside the steps of one process.

    Args:
        out: takes hang-rankR.txt, the stacks of all threads, where nothing has moved.
        limit: seconds from one step to the next; 0 watches nothing.
        phase: the part of the step that is under way; "" between two.
    """

    def __init__(self, out: Path, rank: int, world_size: int, limit: float, phase: Callable[[], str]) -> None:
        self._out, self._rank, self._world_size = out, rank, world_size
        self._limit, self._phase = limit, phase
        self._step, self._moved = 0, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-watcher", daemon=True)

    def __enter__(self) -> "HangWatcher":
        self._file(self._rank).unlink(missing_ok=True)
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._over.set()

    def moved(self, step: int) -> None:
        """Say that `step` was taken, or that another is about to be."""
        self._step, self._moved = step, time.monotonic()

    def _file(self, rank: int) -> Path:
        return self._out / f"hang-rank{rank}.txt"

    def _watch(self) -> None:
        while not self._over.wait(min(5.0, self._limit / 10)):
            if time.monotonic() - self._moved > self._limit:
                self._end()

    def _end(self) -> None:
        where = {"step": self._step + 1, "phase": self._phase() or "between the parts of a step, or reading clips"}
        self._out.mkdir(parents=True, exist_ok=True)
        with self._file(self._rank).open("w", encoding="utf-8") as file:
            print(json.dumps(where), file=file, flush=True)
            faulthandler.dump_traceback(file, all_threads=True)
        print(f"\nerror: (rank {self._rank}) {self._words()}", file=sys.stderr, flush=True)
        os._exit(CODE)  # the thread that hangs would not hear of an exception

    def _words(self) -> str:
        deadline = time.monotonic() + _OTHERS
        files = [self._file(rank) for rank in range(self._world_size)]
        while not all(map(Path.exists, files)) and time.monotonic() < deadline:
            time.sleep(0.1)
        ranks = "; ".join(f"rank {rank}: {_standing(file)}" for rank, file in enumerate(files))
        return (
            f"no step has ended for {self._limit / 60:g} minutes (--hang-minutes). {ranks}. A rank in gather, "
            "queries, all_reduce, backward or log may only be waiting for another. Stacks of all threads: "
            f"{self._file(self._rank)}. Go on with --resume auto; where steps are merely slow, raise --hang-minutes."
        )


def _standing(file: Path) -> str:
    try:
        where = json.loads(file.read_text(encoding="utf-8", errors="replace").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return "says nothing, so it is stopped, gone, or on other storage"
    return f"step {where['step']}, {where['phase']}"
