"""Worker processes that survive a task that kills them.

`concurrent.futures` gives up its whole pool when one worker dies, and does not say which task did it. A video
that crashes a decoder must cost that video alone.
"""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

from modist_pipelines.remote.fetch import State, state

Task = TypeVar("Task")
Report = TypeVar("Report")
HUNG, LOST = -1000, -1001  # exit codes of no process
_CONTEXT = multiprocessing.get_context("spawn")
_POLL = 1.0  # seconds between looks at the clock
_STARTING = 120.0  # seconds that a process may take to load what it needs, whatever the patience
_number = 0
_workers: Any = (1, 1)


def share_of_workers() -> int:
    """How many workers there are for each one that has work, this one among them; 1 outside of a pool."""
    num_workers, num_busy = _workers
    return max(1, num_workers // max(1, num_busy))


def worker_number() -> int:
    """Which worker of its pool this process is, counted from 0; one that died has a successor of its number."""
    return _number


Work = Callable[[Task, Callable[[Report], None]], None]


OnReport = Callable[[Task, Report], None]
OnDeath = Callable[[Task, Report | None, int | None], Task | None]


class Pool(ABC):
    """What does tasks side by side: processes of this machine, or of many (`on_ray.pool`).

    with WorkerPool(num_workers) as pool:
        pool.run(tasks, work, on_report, on_death)
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @abstractmethod
    def stop(self) -> None:
        """End the workers, whatever they are at."""

    @abstractmethod
    def run(
        self,
        tasks: Sequence[Task],
        work: Work[Task, Report],
        on_report: OnReport[Task, Report],
        on_death: OnDeath[Task, Report],
        patience: float | None = None,
    ) -> None:
        """Do all tasks.

        Args:
            tasks: taken in order.
            work: picklable; called in a worker with a task and a function that sends a report.
            on_report: called here with each report, in the order in which a worker sent them.
            on_death: called here with the task of a worker that died, its last report and its exit code;
                returns the task to do in its place, or None to leave it out. It may raise to give up. The exit code
                is `HUNG` for a worker that was ended because of `patience`.
            patience: seconds that a worker may go without a message before it is ended.

        Raises:
            Exception: what `work` raised.
        """


class WorkerPool(Pool):
    """Spawned processes of this machine that do one kind of work after another."""

    def __init__(self, num_workers: int) -> None:
        super().__init__(num_workers)
        self._workers: list[_Worker] = []
        self._counts = _CONTEXT.RawArray("i", [num_workers, num_workers])

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def run(
        self,
        tasks: Sequence[Task],
        work: Work[Task, Report],
        on_report: OnReport[Task, Report],
        on_death: OnDeath[Task, Report],
        patience: float | None = None,
    ) -> None:
        pending = deque(tasks)
        while len(self._workers) < min(self.num_workers, len(tasks)):
            self._workers.append(_Worker(len(self._workers), self._counts))
        while True:
            for worker in self._workers:
                if worker.is_idle and pending:
                    worker.give(work, pending.popleft())
            busy = {worker.connection: worker for worker in self._workers if not worker.is_idle}
            self._counts[1] = len(busy)
            if not busy:
                return
            ready = wait(list(busy), timeout=min(patience, _POLL) if patience is not None else None)
            if patience is not None:
                for worker in busy.values():
                    worker.end_if_silent(patience)
            for connection in ready:
                worker = busy[connection]  # type: ignore[index]
                message = worker.receive()
                if message is None:
                    instead = on_death(worker.task, worker.last_report, worker.exit_code())
                    if instead is not None:
                        pending.appendleft(instead)
                    self._workers[worker.number] = _Worker(worker.number, self._counts)
                elif message[0] == "report":
                    on_report(worker.task, message[1])
                elif message[0] == "failed":
                    raise message[1]


class _Worker:
    """A process, and what it is at."""

    def __init__(self, number: int, counts: Any) -> None:
        self.number = number
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, number, counts, state()), daemon=True)
        self._process.start()
        theirs.close()  # else its end stays open here, and its death would go unseen
        self.is_idle = True
        self.task: Any = None
        self.last_report: Any = None
        self._work: Work | None = None
        self._heard = time.monotonic()
        self._hung = False
        self._has_started = False

    def give(self, work: Work, task: Any) -> None:
        self.task, self.last_report, self.is_idle = task, None, False
        self._heard = time.monotonic()
        # The work travels once: it may keep things between tasks, such as a network's weights.
        new_work = work if work is not self._work else None
        self._work = work
        with contextlib.suppress(OSError):  # it is dead: `receive` says so
            self.connection.send((new_work, task))

    def receive(self) -> tuple[str, Any] | None:
        """The next message, or None when the process is gone."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return None
        self._heard = time.monotonic()
        self._has_started = True
        if message[0] == "report":
            self.last_report = message[1]
        elif message[0] != "started":
            self.is_idle = True
        return message

    def exit_code(self) -> int | None:
        self._process.join()
        return HUNG if self._hung else self._process.exitcode

    def end_if_silent(self, patience: float) -> None:
        """End the process if nothing was heard of it for that many seconds; `receive` will say that it is gone."""
        limit = patience if self._has_started else max(patience, _STARTING)
        if not self._hung and time.monotonic() - self._heard > limit:
            self._hung = True
            self._process.kill()

    def stop(self) -> None:
        self.connection.close()
        if self.is_idle:
            self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, number: int, counts: Any, remote: State) -> None:
    global _number, _workers
    remote.take_over()
    _number, _workers = number, counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work: Work | None = None
    while True:
        try:
            new_work, task = connection.recv()
        except (EOFError, OSError):
            return
        if work is None:
            connection.send(("started", None))
            gc.freeze()  # what is loaded stays: collections look at what is made from here on
        work = new_work or work
        assert work is not None
        try:
            work(task, lambda report: connection.send(("report", report)))
            message = ("done", None)
        except Exception as error:
            message = ("failed", portable(error))
        connection.send(message)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def portable(error: Exception) -> Exception:
    """An error that can travel to another process, with a note of where it was raised."""
    where = "".join(traceback.format_exception(error))
    error.add_note(where)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(where)
    return error
