"""What every command does around its main: readable errors, one exit code for bad input."""

import argparse
import io
import logging
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from modist_fast.errors import ConfigError, did_you_mean
from modist_fast.host.interrupts import Interrupted, raise_interrupted
from modist_fast.run.log_file import early_lines_kept
from modist_pipelines.errors import DataError

log = logging.getLogger("modist")
Options = TypeVar("Options")


def run_cli(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 2 and one paragraph on standard error for input that the user can mend.

    Anything else that goes wrong keeps its traceback: it is ours to mend, not the user's.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a video's name that the terminal lacks letters for
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_handler()])
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, raise_interrupted)
    try:
        with early_lines_kept():
            code = main() or 0
    except BrokenPipeError:
        if not _reader_left():
            raise
        code = 0  # `| head` has seen enough
    except (ConfigError, DataError) as error:
        _print_once(str(error))
        code = 2
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        code = stop.code
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"\n{stop}", file=sys.stderr)
    except Exception as error:
        if (lacking := _shortage(error)) is None:
            raise
        _print_once(
            f"out of memory: {lacking.rstrip('.')}. Lower --batch-size or the size of the clips where the command has "
            "such options, or run it where nothing else takes the memory."
        )
        code = 2
    finally:
        if _reader_left():  # what is still to be written goes nowhere, and is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _shortage(error: Exception) -> str | None:
    if "torch" not in sys.modules:
        return None
    from modist_fast.run.out_of_memory import shortage

    return shortage(error)


def _reader_left() -> bool:
    """Whether whoever read standard output has gone."""
    try:
        place = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # none, or not a file
        return False
    found = select.poll()
    found.register(place, select.POLLOUT)
    return any(event & select.POLLERR for _, event in found.poll(0))


def is_alone_at_start() -> bool:
    """Whether this process may end before it has met the others: it is the first, and all are on this machine.

    Elsewhere they would wait for it in vain.
    """
    return os.environ.get("RANK", "0") == "0" and (
        os.environ.get("WORLD_SIZE", "1") == os.environ.get("LOCAL_WORLD_SIZE", "1")
    )


def starting() -> None:
    """Say that the options were right, before seconds pass with the import of torch."""
    if int(os.environ.get("RANK", 0)) == 0:
        log.info("options read; loading torch")


def parse_options(kind: type[Options], arguments: Sequence[str] | None = None, **more: Any) -> Options:
    """tyro.cli, and the nearest option where one does not exist: tyro names it only where nothing else is wrong.

    Raises:
        ConfigError: a number is outside the range of its option, or --out cannot be made.
    """
    import tyro  # only here: the doctor must run where it is missing

    from modist_fast.config import check_out
    from modist_fast.run.help_texts import give_help
    from modist_fast.run.options import check_ranges
    from modist_pipelines.remote.urls import refuse_keys

    give_help(kind)
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word in words:
        refuse_keys(word)
    try:
        options = tyro.cli(kind, args=words, **more)
    except SystemExit as end:
        if end.code == 2:
            first = takewhile(lambda word: not word.startswith("-"), words)  # a sub-command has options of its own
            with suppress(SystemExit), redirect_stdout(io.StringIO()) as shown:
                tyro.cli(kind, args=[*first, "--help"], **more)
            known = re.findall(r"--[\w.-]+", "\n".join(re.findall(r"^[│ ]*(?:-\w, )?(--.*)", shown.getvalue(), re.M)))
            print(guesses(words, known), end="", file=sys.stderr)
        raise
    check_ranges(options)
    if isinstance(out := getattr(options, "out", None), Path):
        check_out(out, getattr(options, "out_is", "folder"))
    return options


class Parser(argparse.ArgumentParser):
    """argparse's, which takes no shortened options and names the nearest where one does not exist."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """argparse's, which keeps the words."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with code 2."""
        super().error(f"{message}\n{guesses(self._words, self._option_string_actions)}".rstrip())


def guesses(words: Sequence[str], known: Iterable[str]) -> str:
    """A line for each of the words that is no option but like one.

    Args:
        known: the options that there are.
    """
    known = set(known)
    given = [word.partition("=")[0].replace("_", "-") for word in takewhile(lambda word: word != "--", words)]
    near = {word: did_you_mean(word, known) for word in given if word.startswith("--") and word not in known}
    return "".join(f"There is no option {word}.{guess}\n" for word, guess in near.items() if guess)


class _Stderr(logging.StreamHandler):
    """Writes to what standard error is by now: where a bar is shown, above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _handler() -> logging.Handler:
    """Lines that carry the time on a terminal, plain ones in a file. Neither breaks them: a path stays whole."""
    handler = _Stderr()
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: not getattr(record, "to_file_only", False))
    return handler


def _print_once(message: str) -> None:
    """Print an error of rank 0, or of another rank when rank 0 has none.

    Most errors meet every rank. The others wait a moment: where rank 0 leaves with the same words, the launcher
    ends them before they repeat it; where they alone failed, they speak.
    """
    rank = int(os.environ.get("RANK", 0))
    if rank > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(2.0)
        if not message.startswith(f"rank {rank} "):
            message = f"(rank {rank}) {message}"
    print(f"\nerror: {message}", file=sys.stderr)  # one line, which a terminal folds without breaking a path
