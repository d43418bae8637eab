"""Runs the stages of gpu_check.py: each a process of its own with a limit; none stops the others."""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modist_profiling.gpu_check.findings import Findings
from modist_profiling.gpu_check.stage import OUT, REPOSITORY, Stage

State = Literal["ok", "failed", "timed out", "skipped", "not applicable", "not run yet"]

# Seconds after SIGINT, on which pytest writes its report and a run its budget, and after SIGTERM.
GRACE = {signal.SIGINT: 10.0, signal.SIGTERM: 5.0}
LEAST = 20.0
"""Seconds without which no stage is begun."""


@dataclass
class Result:
    """What became of a stage."""

    stage: Stage
    state: State = "not run yet"
    seconds: float = 0.0
    exit_code: int | None = None
    message: str = ""
    """Why it is not ok, in a line."""
    findings: Findings = field(default_factory=Findings)

    @property
    def is_good(self) -> bool:
        return self.state in ("ok", "not applicable")


@dataclass(frozen=True)
class Folders:
    """Where the stages write."""

    out: Path
    """What is kept: logs/NAME.log and what the stages make."""
    work: Path
    """Videos, stores and runs, which a later call may go on with."""

    def expanded(self, command: Sequence[str]) -> list[str]:
        """The command with both folders in their places."""
        return [re.sub(r"^(OUT|WORK)(?=/)", lambda m: str(self.out if m[0] == OUT else self.work), w) for w in command]


def run_stages(
    results: Mapping[str, Result],
    names: Collection[str],
    folders: Folders,
    deadline: float = math.inf,
    say: Callable[[str], None] = print,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Run stages in order, and enter what comes of them; a stage whose needs have failed is skipped.

    Args:
        results: of all stages that count, by name, in their order.
        names: of those that run now.
        folders: where they write.
        deadline: by `time.monotonic`; limits are cut to what is left until then.
        say: takes a line of progress.
        keep: called after every stage, so that the end of this process loses none.
    """
    (folders.out / "logs").mkdir(parents=True, exist_ok=True)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun by `&` of a script: stages would ignore it as well
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(names, 1):
        result = results[name]
        stage = result.stage
        say(f"[{number}/{len(names)}] {name}: {stage.what}")
        left = deadline - time.monotonic()
        missing = [need for need in stage.needs if results[need].state != "ok"]
        if stage.obstacle:
            result.state, result.message = "not applicable", stage.obstacle
        elif missing:
            result.state, result.message = "skipped", f"needs {', '.join(missing)}"
        elif left < LEAST:
            result.state, result.message = "skipped", f"less than {LEAST:.0f} s are left until --deadline"
        else:
            run_stage(result, folders, min(stage.limit, left - sum(GRACE.values())))
        say(f"    {result.state}, {result.seconds:.0f} s{'. ' if result.message else ''}{result.message}")
        keep()


def run_stage(result: Result, folders: Folders, limit: float) -> None:
    """Run one stage for at most `limit` seconds, keep what it made, and read its figures."""
    stage = result.stage
    for name in stage.makes:  # what an earlier call left is no figure of this one
        (folders.out / name).unlink(missing_ok=True)
    begun = time.monotonic()
    code = _run_command(stage, folders, limit)
    result.state, result.seconds, result.exit_code = "ok", time.monotonic() - begun, code
    for source, target in stage.kept.items():
        if (folders.work / source).is_file():
            (folders.out / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folders.work / source, folders.out / target)
    missing = [name for name in stage.makes if not (folders.out / name).is_file()]
    if code is None:
        result.state, result.message = "timed out", f"ended after {limit:.0f} s"
    elif code:
        result.state, result.message = "failed", f"exit code {code}"
    elif missing:
        result.state, result.message = "failed", f"did not write {', '.join(missing)}"
    if not missing:  # figures of a failure are worth as much
        read_figures(result, folders.out)
    if result.state != "ok" and not result.findings.problems and (last := _last_line(folders.out, stage)):
        result.message += f": {last}"


def read_figures(result: Result, folder: Path) -> None:
    """Read a stage's figures from the files in OUT; what is wrong with them is its failure."""
    try:
        result.findings = result.stage.read(folder)
    except (OSError, ValueError, LookupError, TypeError, SyntaxError) as error:  # the last is a broken XML's
        result.findings.problems = [f"its files cannot be read ({type(error).__name__}: {error})"]
    if problems := result.findings.problems:
        result.state = "failed" if result.state == "ok" else result.state
        result.message = "; ".join(filter(None, [result.message, *problems]))


def log_of(stage: Stage) -> str:
    """Path of a stage's log below the folder."""
    return f"logs/{stage.name}.log"


def readable(command: Sequence[str]) -> str:
    """The command as one types it at the top of the checkout; OUT and WORK are the two folders."""
    return shlex.join("python" if word == sys.executable else word for word in command)


def _run_command(stage: Stage, folders: Folders, limit: float) -> int | None:
    """Exit code, or None where the limit was reached; its processes are gone then."""
    paths = [str(REPOSITORY / name) for name in (".", "kernels", "pipelines", "profiling")]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    with ExitStack() as files:
        log = files.enter_context((folders.out / log_of(stage)).open("w", encoding="utf-8"))
        log.write(f"$ {readable(stage.command)}\n")
        log.flush()
        stdout = log
        if stage.stdout:
            stdout = files.enter_context((folders.out / stage.stdout).open("w", encoding="utf-8"))
        process = subprocess.Popen(
            folders.expanded(stage.command),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=log,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the stage's processes: politely first, for a launcher ends its own."""
    for number, seconds in GRACE.items():
        if process.poll() is None:
            # An interrupt is for the first alone: the workers of pytest-xdist and torchrun are theirs to end.
            (os.kill if number == signal.SIGINT else os.killpg)(process.pid, number)
            with suppress(subprocess.TimeoutExpired):  # then the next
                process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(folder: Path, stage: Stage) -> str:
    """The last words of a log."""
    lines = (folder / log_of(stage)).read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:200]
