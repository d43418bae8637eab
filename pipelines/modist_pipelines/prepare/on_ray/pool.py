"""A pool of workers on the machines of a Ray cluster, each with a process of our own for what may crash.

Ray Data deals tasks to actors, one block for each: Ray would put several into one. An actor hands its task to a
`WorkerPool` of one process, so that a video that crashes or hangs a decoder ends that process alone, and is dealt with
there. What Ray sees are actors that do not fail. Where one is lost all the same, with its machine or because memory
ran out, Ray gives its task to another for ever; here the next one is told what came before, and `on_death` decides.
"""

import importlib.metadata
import logging
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modist_pipelines.errors import DataError
from modist_pipelines.prepare.workers import LOST, OnDeath, OnReport, Pool, Report, Task, Work, WorkerPool, portable
from modist_pipelines.program import program
from modist_pipelines.remote.fetch import State, state

logger = logging.getLogger("modist")

_LOOK = 0.5  # seconds between looks at what the actors say
_LIBRARIES = ("av", "opencv-python-headless", "numpy", "torch", "pyarrow")


class RayPool(Pool):
    """The same work as a `WorkerPool` does, on a cluster that this process has joined.

    Args:
        num_workers: at most; fewer while the cluster has no room.
        gpu_share: of a GPU that each takes, 0 to 1.
    """

    def __init__(self, num_workers: int, gpu_share: float = 0.0) -> None:
        super().__init__(num_workers)
        self.gpu_share = gpu_share

    def stop(self) -> None:
        """Let go of the cluster, which ends all actors, whatever they are at."""
        ray.shutdown()

    def run(
        self,
        tasks: Sequence[Task],
        work: Work[Task, Report],
        on_report: OnReport[Task, Report],
        on_death: OnDeath[Task, Report],
        patience: float | None = None,
    ) -> None:
        """Do all tasks: see `Pool.run`.

        Args:
            on_report: called here, from another thread.
            on_death: travels to the machines, with what it knows now. Its exit code is `LOST` for an earlier actor
                that was lost.

        Raises:
            DataError: a machine runs another program.
            Exception: what `work` raised.
        """
        if not tasks:
            return
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: it is set when ray.data is imported
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a shard may take hours
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()  # type: ignore[arg-type]
        size = min(self.num_workers, len(tasks))
        rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,  # type: ignore[arg-type]
            fn_constructor_args=(board, work, on_death, patience, state(), versions()),
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
            num_gpus=self.gpu_share or None,
        )
        with _Listener(board, tasks, on_report):
            for row in done.iter_rows():
                if row["failure"]:
                    raise pickle.loads(row["failure"])


class _Board:
    """An actor: what the others say, until it is taken down, and what is remembered of those that were lost."""

    def __init__(self) -> None:
        self._news: list[tuple[int, Any]] = []
        self._lost: dict[int, list[Any]] = {}
        self._last: dict[int, Any] = {}

    def begin(self, number: int) -> list[Any]:
        """A task is begun.

        Returns:
            The last report of each earlier actor that had it, and is lost.
        """
        if number in self._last:
            self._lost.setdefault(number, []).append(self._last[number])
        self._last[number] = None
        return self._lost.get(number, [])

    def say(self, number: int, report: Any) -> None:
        self._last[number] = report
        self._news.append((number, report))

    def log(self, level: int, line: str) -> None:
        self._news.append((-1, (level, line)))

    def take(self) -> list[tuple[int, Any]]:
        news, self._news = self._news, []
        return news


class _Listener:
    """Hands on what stands on the board, for as long as it is entered and once more at the end."""

    def __init__(self, board: Any, tasks: Sequence[Any], on_report: Callable[[Any, Any], None]) -> None:
        self._board, self._tasks, self._on_report = board, tasks, on_report
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="board", daemon=True)

    def _listen(self) -> None:
        while not self._is_over.wait(_LOOK):
            self._hand_on()

    def _hand_on(self) -> None:
        for number, news in ray.get(self._board.take.remote()):
            if number < 0:
                logger.log(*news)
            else:
                self._on_report(self._tasks[number], news)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
        if kind is None or issubclass(kind, Exception):  # not after Ctrl-C
            self._hand_on()


class _Actor:
    """One of the workers: it has one process, which keeps what it has loaded from task to task."""

    def __init__(
        self,
        board: Any,
        work: Work[Any, Any],
        on_death: Callable[[Any, Any, int | None], Any],
        patience: float | None,
        remote: State,
        wanted: dict[str, str],
    ) -> None:
        remote.take_over()
        self._board, self._work, self._on_death, self._patience = board, work, on_death, patience
        self._refusal = _difference(wanted)
        self._pool = WorkerPool(1)
        log = logging.getLogger("modist")
        log.setLevel(logging.INFO)
        log.addHandler(_ToBoard(board))

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        try:
            if self._refusal:
                raise self._refusal
            self._do(row["number"], pickle.loads(row["task"]))
        except Exception as error:
            return {"failure": pickle.dumps(portable(error))}
        return {"failure": b""}

    def _do(self, number: int, task: Any) -> None:
        for last in ray.get(self._board.begin.remote(number)):
            task = self._on_death(task, last, LOST)
            if task is None:
                return
        said: list[Any] = [None]

        def say(_: Any, report: Any) -> None:
            said[0] = self._board.say.remote(number, report)

        self._pool.run([task], self._work, say, self._on_death, self._patience)
        if said[0] is not None:
            ray.get(said[0])  # all of it is there before the task counts as done


class _ToBoard(logging.Handler):
    """Log lines of an actor appear where the command was given."""

    def __init__(self, board: Any) -> None:
        super().__init__()
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        self._board.log.remote(record.levelno, f"{socket.gethostname()}: {record.getMessage()}")


def versions() -> dict[str, str]:
    """Of all that the bytes of a store depend on besides options."""
    return {"program": program()} | {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # installed in another way, or not
        return "none"


def _difference(wanted: dict[str, str]) -> DataError | None:
    found = versions()
    differing = [f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if not differing:
        return None
    return DataError(
        f"--engine ray: {socket.gethostname()} has {', '.join(differing)}, and would make other bytes. Bring all "
        "machines to one version, and run the same command again: what is done is kept."
    )
