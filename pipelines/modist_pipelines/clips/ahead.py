"""A thread that makes steps, or items, ready ahead of whoever takes them."""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar


class Begun(Protocol):
    """The first part of a step, which runs in the background."""

    def cancel(self) -> None: ...


Reads = TypeVar("Reads", bound=Begun)
Batch = TypeVar("Batch")
Item = TypeVar("Item")


class Producer(Generic[Reads, Batch]):
    """Begins and finishes steps in their order, and stays `depth` of them ahead.

    Args:
        steps: their numbers.
        begin: starts the reading of a step and comes back at once.
        finish: waits for the reading and makes the batch; gives up when the event that it gets is set.
        depth: batches that wait to be taken.
        enter: called first in the thread.
    """

    def __init__(
        self,
        steps: Iterable[int],
        begin: Callable[[int], Reads],
        finish: Callable[[Reads, threading.Event], Batch],
        depth: int,
        enter: Callable[[], None] = lambda: None,
    ) -> None:
        self._steps, self._begin, self._finish, self._enter = iter(steps), begin, finish, enter
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    @property
    def num_ready(self) -> int:
        return self._ready.qsize()

    def next(self) -> Batch:
        """The next batch, in order.

        Raises:
            RuntimeError: stopped.
            Exception: what `begin` or `finish` raised.
        """
        if self._stopping.is_set():
            raise RuntimeError("the loader was closed, or iterates from another step since")
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """End the thread; what is not taken is lost."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        begun: deque[Reads] = deque()
        try:
            self._enter()
            while not self._stopping.is_set():
                # Reading the next step overlaps decoding this one.
                while len(begun) < 2 and (step := next(self._steps, None)) is not None:
                    begun.append(self._begin(step))
                if not begun:
                    return
                self._hand_over(self._finish(begun.popleft(), self._stopping))
        except BaseException as error:  # the consumer raises it
            self._hand_over(error)
        finally:
            for reads in begun:
                reads.cancel()

    def _hand_over(self, item: Batch | BaseException) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return


def ahead(items: Iterator[Item], depth: int = 2, enter: Callable[[], None] = lambda: None) -> Iterator[Item]:
    """The same items, made by a thread that stays up to `depth` ahead of whoever takes them.

    Args:
        enter: called first in the thread.

    Raises:
        Exception: what the iterator raised, at its place.
    """
    end = object()
    ready: queue.Queue[Any] = queue.Queue(depth)
    left = threading.Event()

    def put(item: Any) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            enter()
            for item in items:
                put((item, None))
                if left.is_set():
                    return
            put((end, None))
        except BaseException as error:  # whoever takes the items raises it
            put((end, error))

    thread = threading.Thread(target=work, name="decode-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        left.set()
        thread.join()
