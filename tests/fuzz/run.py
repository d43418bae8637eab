"""Damage files and have them read: python -m tests.fuzz.run [TARGET …] [--cases N] [--seed S]

Each case must end well or with a DataError or ConfigError that names the file. Another exception, a crash, a case of
more than 30 seconds, an allocation of gigabytes or a file opened outside the case's folder ends the run with the seed.
"""

import argparse
import faulthandler
import logging
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from modist_fast.errors import ConfigError
from modist_pipelines.errors import DataError
from modist_pipelines.store import reader
from tests.fuzz.targets import TARGETS, Target

_SECONDS = 30
_ROOM = 2 << 30  # bytes of addresses beyond those of the imports


class Outside:
    """Notes files that are opened beside a folder in a temporary one, and whatever is called as mutations call it."""

    def __init__(self, around: Path) -> None:
        self.around, self.inside, self.found = str(around), "", []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if event == "open" and self.inside and isinstance(arguments[0], str | bytes):
            path = str(Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]).absolute())
            astray = path.startswith(self.around) and not path.startswith(self.inside)
            if astray or path.endswith(("/outside", "/passwd")):
                self.found.append(path)


def one_case(target: Target, whole: Path, folder: Path, seed: str, outside: Outside) -> bool:
    """Whether the damaged file was refused.

    Raises:
        AssertionError: its error does not name the file, or another was opened beside it.
    """
    shutil.copytree(whole, folder)
    target.damage(folder / target.file, random.Random(seed))
    outside.inside, said = str(folder), None
    try:
        target.take(folder)
    except (DataError, ConfigError) as error:
        said = str(error)
    finally:
        outside.inside = ""
        shutil.rmtree(folder)
    assert not outside.found, f"it opened {outside.found[0]}"
    named = said is None or Path(target.file).name in said or str(folder) in said
    assert named, f"the error does not name the file: {said}"
    return said is not None


def main() -> None:
    """Raises what a case ended with that it may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--cases", type=int, default=1000, help="of each target")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    reader._READ_PAUSES = ()  # what fails here fails at once, and again
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with tempfile.TemporaryDirectory() as around:
        outside = Outside(Path(around))
        for name in options.targets or TARGETS:
            target, whole = TARGETS[name], Path(around, name)
            whole.mkdir()
            target.make(whole)
            target.take(whole)
            refused = 0
            for number in range(options.seed, options.seed + options.cases):
                folder = Path(around, f"{name}-{number}")
                faulthandler.dump_traceback_later(_SECONDS, exit=True)
                print(f"\r{name} {number}", end="", file=sys.stderr, flush=True)
                try:
                    refused += one_case(target, whole, folder, f"{name} {number}", outside)
                except BaseException as error:
                    print(f"\n{name}, --seed {number}: {type(error).__name__}", file=sys.stderr)
                    raise
            faulthandler.cancel_dump_traceback_later()
            print(f"\n{name}: {options.cases} cases, {refused} refused", file=sys.stderr)


if __name__ == "__main__":
    main()
