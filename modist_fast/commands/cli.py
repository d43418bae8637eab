"""What every command does around its main: readable errors, one exit code for bad input."""

import argparse
import difflib
import io
import logging
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from typing import NoReturn

from modist_fast.errors import ConfigError
from modist_pipelines.errors import DataError


def run_cli(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 2 and one paragraph on standard error for input that the user can mend.

    Anything else that goes wrong keeps its traceback: it is ours to mend, not the user's.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a video's name that the terminal lacks letters for
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_handler()])
    try:
        code = main() or 0
    except (ConfigError, DataError) as error:
        _print_once(str(error))
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """argparse's, which names the nearest option where one does not exist, as tyro does."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with code 2."""
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = difflib.get_close_matches(unknown[0], self._option_string_actions, n=1) if unknown else []
        super().error(message + (f". Did you mean {near[0]}?" if near and "unrecognized" in message else ""))


def _handler() -> logging.Handler:
    """Lines that wrap and carry the time on a terminal, plain ones in a file."""
    if not sys.stderr.isatty():
        return logging.StreamHandler()
    from rich.console import Console  # only here: the doctor must run where it is missing
    from rich.logging import RichHandler

    console = Console(stderr=True)
    return RichHandler(console=console, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S")


def _print_once(message: str) -> None:
    """Print an error of rank 0, or of another rank when rank 0 has none.

    Most errors meet every rank. The others wait a moment: where rank 0 leaves with the same words, the launcher
    ends them before they repeat it; where they alone failed, they speak.
    """
    rank = int(os.environ.get("RANK", 0))
    if rank > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(2.0)
        message = f"(rank {rank}) {message}"
    print(
        "\n" + textwrap.fill(f"error: {message}", 100, break_long_words=False, break_on_hyphens=False), file=sys.stderr
    )
