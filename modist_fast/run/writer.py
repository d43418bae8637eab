"""Checkpoints written beside the training: a thread has the snapshot, the step goes on."""

import threading
from collections.abc import Callable


class Writer:
    """Does one piece of writing at a time in a thread. What it raises is raised by the next call.

    The thread is no daemon: a process that ends in an error still finishes the file it was at.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, write: Callable[[], object]) -> None:
        """Start `write`, after the one before is over.

        Raises:
            Exception: of the one before; then `write` is not started.
        """
        self.wait()

        def run() -> None:
            try:
                write()
            except BaseException as error:  # whatever it is, the training thread must hear of it
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            Exception: of the writing.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
