"""Files written beside the training: a thread has what is to be written, the step goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does one piece of writing at a time in a thread. What it raises is raised by the next call.

    The thread is no daemon: a process that ends in an error still finishes the file it was at.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._writing: Future[object] | None = None

    @property
    def is_free(self) -> bool:
        """Whether `begin` would not have to wait."""
        return self._writing is None or self._writing.done()

    def begin(self, write: Callable[[], object]) -> None:
        """Start `write`, after the one before is over.

        Raises:
            Exception: of the one before; then `write` is not started.
        """
        self.wait()
        threads = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._writing = threads.submit(write)
        threads.shutdown(wait=False)  # the thread ends with its work

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            Exception: of the writing.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
