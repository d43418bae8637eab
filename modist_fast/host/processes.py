"""Processes: commands of this project in some of their own, and the cores that this one may use."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modist_fast.network.errors import of_rendezvous

if TYPE_CHECKING:
    import torch


def command(name: str, *words: object, processes: int | None = None) -> tuple[str, ...]:
    """The words that run one of the commands in a process of its own, from any working directory.

    Args:
        name: see `modist --help`.
        words: its options.
        processes: start so many.
    """
    launcher = ("--nproc-per-node", str(processes)) if processes else ()
    return (sys.executable, "-m", "modist_fast", *launcher, name, *map(str, words))


def end_with_launcher() -> None:
    """Have this process get SIGTERM when torchrun dies, however it does: it saves and ends, instead of training on.

    torchrun gives each process a session of its own, so what kills torchrun's group does not reach them. Elsewhere than
    on Linux, and under other launchers, this does nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def allowed_cores(device: "torch.device") -> str:
    """For the log: how many cores this process may use; with a GPU, how to have those that are near to it."""
    near = "" if device.type == "cpu" else " (`torchrun --numa-binding node` keeps to those near the GPU)"
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores{near}"


_OF_SEVERAL_MACHINES = ("--nnodes", "--rdzv", "--master", "--node", "--standalone")  # or says that there is one


def launch(options: Sequence[str], command: Sequence[str]) -> int:
    """Run a command of this project in several processes, as `torchrun OPTIONS -m modist_fast COMMAND` would.

    torchrun follows every error with its own traceback, of which no line is about the error, and ends with 1. Here the
    processes' own words stand alone, and the code is theirs.

    Args:
        options: torchrun's: --nproc-per-node and, for several machines, --nnodes, --rdzv-endpoint, …
        command: the name of a command and its options.

    Returns:
        The exit code of the first process that failed, as a shell has it; 0 where none did; 2 where nodes did not meet.
    """
    # torchrun sets it too, and says so in four lines: each process has its share of the cores for threads of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if not any(option.startswith(_OF_SEVERAL_MACHINES) for option in options):
        options = ["--standalone", *options]  # a port that is free; older versions of torchrun take one and the same
    else:
        # torchrun's own store would let no node in that comes later than the first ones (network.errors.advice).
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with _quiet():
        from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    try:
        run.run(run.parse_args([*options, "-m", "modist_fast", *command]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could say nothing any more
            ended_by = signal.Signals(-failure.exitcode)
            print(f"\nerror: rank {rank} was ended by {ended_by.name}.{_guess(ended_by)}", file=sys.stderr)
        return _code(failure.exitcode)
    except (RendezvousError, DistError) as error:
        print(f"\nerror: {of_rendezvous(error, ' '.join(options))}", file=sys.stderr)
        return 2
    except SignalException as error:
        return _code(-error.sigval)
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """To import torch in here: its stores then say nothing of a node that is gone, in a hundred lines of addresses."""
    before = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = before or "FATAL"
    try:
        yield
    finally:  # the processes say all that they would
        if before is None:
            del os.environ["TORCH_CPP_LOG_LEVEL"]


def _guess(signum: int) -> str:
    if signum != signal.SIGKILL:
        return ""
    return " The system does that where memory runs out: start fewer processes, or make batches smaller."


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code
