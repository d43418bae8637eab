"""torchrun as a part of `modist`: the same options and processes; what went wrong is said once, by who met it."""

import logging
import os
import signal
import sys
from collections.abc import Sequence


def launch(options: Sequence[str], command: Sequence[str]) -> int:
    """Run a command of this project in several processes, as `torchrun OPTIONS -m modist_fast COMMAND` would.

    torchrun follows every error with its own traceback, of which no line is about the error, and ends with 1. Here the
    processes' own words stand alone, and the code is theirs.

    Args:
        options: torchrun's: --nproc-per-node and, for several machines, --nnodes, --rdzv-endpoint, …
        command: the name of a command and its options.

    Returns:
        The exit code of the first process that failed, as a shell has it; 0 where none did.
    """
    # torchrun sets it too, and says so in four lines: each process has its share of the cores for threads of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args([*options, "-m", "modist_fast", *command]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could say nothing any more
            ended_by = signal.Signals(-failure.exitcode)
            print(f"\nerror: rank {rank} was ended by {ended_by.name}.{_guess(ended_by)}", file=sys.stderr)
        return _code(failure.exitcode)
    except SignalException as error:
        return _code(-error.sigval)
    return 0


def _guess(signum: int) -> str:
    if signum != signal.SIGKILL:
        return ""
    return " The system does that where memory runs out: start fewer processes, or make batches smaller."


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code
