"""What every launch script does around its main: readable errors, one exit code for bad input."""

import logging
import sys
import textwrap
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler

from modist_fast.errors import ConfigError
from modist_pipelines.errors import DataError


def run_cli(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 2 and one paragraph on standard error for input that the user can mend.

    Anything else that goes wrong keeps its traceback: it is ours to mend, not the user's.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=False, markup=False)],
    )
    try:
        code = main() or 0
    except (ConfigError, DataError) as error:
        print("\n" + textwrap.fill(f"error: {error}", 100, break_long_words=False), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
