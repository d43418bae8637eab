"""What a benchmark measures, and how: rows, their turns, and processes that wait for theirs."""

import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from modist_fast.errors import ConfigError

log = logging.getLogger("modist")
_SAID = 5.0  # seconds


@dataclass
class Row:
    """A line of a table: one thing under measurement, and what each of its turns took."""

    table: str
    name: str
    _: KW_ONLY
    missing: str = ""
    """Why it was not measured."""
    times: list[float] = field(default_factory=list)
    """Of each turn, in `unit`."""
    cpu_times: list[float] = field(default_factory=list)
    """Of the processors in each turn: what other work on the machine disturbs least. Empty where not measured."""
    baseline: list[float] = field(default_factory=list)
    """Times of the table's first row in the same turns."""

    unit: ClassVar[str] = "ms"
    derived: ClassVar[tuple[str, ...]] = ("median", "p20", "p80")
    """Properties that stand in files beside the fields."""

    def add(self, answer: Mapping[str, Any]) -> None:
        """Take in what a worker says of a turn."""
        self.times.append(answer["time"])
        self.cpu_times.append(answer["cpu_time"])

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def p20(self) -> float:
        return float(np.quantile(self.times, 0.2))

    @property
    def p80(self) -> float:
        return float(np.quantile(self.times, 0.8))

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu_times)

    @property
    def speedup(self) -> float:
        """Against the table's first row."""
        return statistics.median(self.baseline) / self.median

    def cells(self) -> dict[str, str]:
        """Head to text, for the table of `print_rows`."""
        return {f"median {self.unit}": digits(self.median), "p20": digits(self.p20), "p80": digits(self.p80)}

    def record(self) -> dict[str, Any]:
        """For files: fields, cells and what is derived, which is None where nothing was measured."""
        cells = self.cells() if self.times else {"not measured": self.missing}
        derived = {name: getattr(self, name) if self.times else None for name in self.derived}
        return {**asdict(self), **derived, "cells": cells}


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


# ---- Turns


def turns(rounds: int, seconds: float = math.inf) -> Iterator[int]:
    """Numbers of the turns, `rounds` at most; none begins after `seconds`, but for the first three.

    Between turns, and by no thread that would disturb them, the log hears how far they are.
    """
    begun = said = time.perf_counter()
    for turn in range(rounds):
        now = time.perf_counter()
        if turn >= 3 and now - begun > seconds:
            break
        if now - said >= _SAID:
            log.info("turn %d of %d  %.0f s so far", turn + 1, rounds, now - begun)
            said = now
        yield turn


class Worker:
    """A process of a benchmark, as `answer_commands` makes one: a command a line, each answered in a line of JSON."""

    def __init__(self, name: str, module: str, spec: object, num_processes: int = 1, **variables: str) -> None:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
        command = [*(torchrun if num_processes > 1 else []), "-m", module, json.dumps(spec)]
        self.name = name
        log.info("%s starts", name)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, *command], env=os.environ | variables, **pipes)
        self.ready = self.answer()
        """What it said when it was ready."""

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next line.

        Raises:
            ConfigError: the process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ConfigError(f"the process of row {self.name!r} ended. Look at its error above.")
        return json.loads(line)

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.answer()

    def close(self) -> None:
        """The end of its input is the end of its work."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def answer_commands(ready: Mapping[str, Any], turn: Callable[..., Mapping[str, Any]]) -> None:
    """The other end of a `Worker`: say what is `ready`, then answer each command, as keywords, by `turn`."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(**json.loads(line))), flush=True)


R = TypeVar("R", bound=Row)


def run_rows(
    rows: Sequence[R], start: Callable[[R], Worker], rounds: int, together: int | None = None, **command: Any
) -> None:
    """Measure the rows of a table in turns, so that a disturbance falls on all of them.

    Args:
        rows: those that are not missing are measured.
        start: makes the process of a row.
        rounds: turns of each row.
        together: processes at a time; the first row's is always among them, and it takes all their turns.
        command: of a turn.
    """
    measured = [row for row in rows if not row.missing]
    if not measured:
        return
    first, *others = measured
    size = max(1, (together or len(rows)) - 1)
    with closing(start(first)) as baseline:
        for begin in range(0, max(1, len(others)), size):
            part, turns_before = others[begin : begin + size], len(first.times)
            with ExitStack() as started:
                pairs = [(first, baseline)]
                pairs += [(row, started.enter_context(closing(start(row)))) for row in part]
                for number in turns(rounds):
                    for row, worker in pairs if number % 2 == 0 else reversed(pairs):
                        row.add(worker.ask(**command))
            for row in part:
                row.baseline = first.times[turns_before:]
    first.baseline = first.times
