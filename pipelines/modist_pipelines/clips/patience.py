"""Reading in the background, with patience for file systems that hang."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeVar

from modist_pipelines.errors import DataError

log = logging.getLogger("modist")

Result = TypeVar("Result")
_MAX_ATTEMPTS = 3
_POLL = 0.2  # seconds between looks at whether anybody still waits


class Job(Generic[Result]):
    """A piece of reading that was handed to the threads."""

    def __init__(self, name: str, work: Callable[[], Result]) -> None:
        self.name, self.work = name, work
        self.attempts: list[Future[Result]] = [Future()]

    def cancel(self) -> None:
        """Do not begin it, unless it has begun."""
        self.attempts[0].cancel()


class ReadThreads:
    """Threads that read ahead. One that hangs costs a thread, not the run.

    They are daemons, unlike those of an executor: a read that a dead file server never answers cannot be
    interrupted, and must not keep the process from ending.

    Args:
        num_threads: reads under way at a time.
        patience: seconds after which a read is begun again beside the first, on a thread of its own.
        place: where the files are, for messages.
        enter: called first in each thread.
    """

    def __init__(self, num_threads: int, patience: float, place: str, enter: Callable[[], None] = lambda: None) -> None:
        self._patience, self._place, self._enter = patience, place, enter
        self._waiting: queue.SimpleQueue[tuple[Job, Future] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"read-{index}", daemon=True) for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, name: str, work: Callable[[], Result]) -> Job[Result]:
        """Have `work` done; `name` says in messages what is read."""
        job = Job(name, work)
        self._waiting.put((job, job.attempts[0]))
        return job

    def result(self, job: Job[Result], given_up: threading.Event) -> Result:
        """Wait for a job, and begin it anew where it takes longer than the patience.

        Args:
            given_up: set by whoever no longer wants the result.

        Raises:
            DataError: not even the last attempt came back; the message names file and seconds.
            Whatever the job's work raises.
        """
        started = asked = time.monotonic()
        while not (done := _finished(job, min(self._patience, _POLL))):
            now = time.monotonic()
            if given_up.is_set():
                raise DataError(f"nobody waits for {job.name} any more. Look at what ended the run before this.")
            if now - asked < self._patience:
                continue
            if len(job.attempts) == _MAX_ATTEMPTS:
                raise DataError(
                    f"reading {job.name} of {self._place} has not come back after {now - started:.0f} s and "
                    f"{_MAX_ATTEMPTS} attempts. Is the disk or the network file system still there? Raise "
                    "--loader.read-patience if it is merely slow; --resume auto goes on from the last checkpoint."
                )
            log.warning(
                "reading %s of %s has taken %.0f s: trying again beside it", job.name, self._place, now - started
            )
            job.attempts.append(attempt := Future())
            threading.Thread(target=self._again, args=(job, attempt), name="read-again", daemon=True).start()
            asked = now
        if len(job.attempts) > 1:
            log.warning("reading %s came back after %.1f s", job.name, time.monotonic() - started)
        return done.result()

    def close(self) -> None:
        """Let the threads go once they have finished what they are at; one that hangs is left behind."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _again(self, job: Job, attempt: Future) -> None:
        _attempt(job, attempt, self._entered())

    def _work(self) -> None:
        problem = self._entered()
        while (item := self._waiting.get()) is not None:
            _attempt(*item, problem)

    def _entered(self) -> BaseException | None:
        """What `enter` raised: whoever waits for a job of this thread hears of it, instead of waiting for nobody."""
        try:
            self._enter()
        except BaseException as error:
            return error
        return None


def _finished(job: Job[Result], timeout: float) -> Future[Result] | None:
    if job.attempts[0].done():
        return job.attempts[0]
    done, _ = wait(job.attempts, timeout=timeout, return_when=FIRST_COMPLETED)
    return done.pop() if done else None


def _attempt(job: Job, attempt: Future, problem: BaseException | None) -> None:
    if not attempt.set_running_or_notify_cancel():
        return
    try:
        if problem is not None:
            raise problem
        attempt.set_result(job.work())
    except BaseException as error:  # whoever waits for the job raises it
        attempt.set_exception(error)
