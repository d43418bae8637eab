"""Runs the stages of gpu_check.py: each a process of its own with a limit; none stops the others."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modist_profiling.gpu_check.findings import Findings
from modist_profiling.gpu_check.stages import Stage

REPOSITORY = Path(__file__).resolve().parents[3]
WORK_PREFIX = "gpu-check-work-"
GRACE = 20.0  # seconds between SIGTERM and SIGKILL

State = Literal["ok", "failed", "timed out", "skipped", "not applicable"]


@dataclass
class Result:
    """What became of a stage."""

    stage: Stage
    state: State
    seconds: float = 0.0
    exit_code: int | None = None
    message: str = ""
    """Why it is not ok, in a line."""
    findings: Findings = field(default_factory=Findings)

    @property
    def is_good(self) -> bool:
        return self.state in ("ok", "not applicable")


def run_stages(
    stages: Sequence[Stage], folder: Path, work: Path, say: Callable[[str], None] = print
) -> dict[str, Result]:
    """Run all stages in order; a stage whose needs have failed is skipped.

    Args:
        folder: takes logs/NAME.log and what the stages make.
        work: where `Stage.kept` comes from.
        say: takes a line of progress.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = {}
    for number, stage in enumerate(stages, 1):
        say(f"[{number}/{len(stages)}] {stage.name}: {stage.what}")
        missing = [name for name in stage.needs if results[name].state != "ok"]
        if stage.obstacle:
            result = Result(stage, "not applicable", message=stage.obstacle)
        elif missing:
            result = Result(stage, "skipped", message=f"needs {', '.join(missing)}")
        else:
            result = run_stage(stage, folder, work)
        results[stage.name] = result
        say(f"    {result.state}, {result.seconds:.0f} s{'. ' if result.message else ''}{result.message}")
    return results


def run_stage(stage: Stage, folder: Path, work: Path) -> Result:
    """Run one stage, keep what it made, and read its figures."""
    begun = time.monotonic()
    code = _run_command(stage, folder)
    result = Result(stage, "ok", time.monotonic() - begun, code)
    for source, target in stage.kept.items():
        if (work / source).is_file():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / source, folder / target)
    missing = [name for name in stage.makes if not (folder / name).is_file()]
    if code is None:
        result.state, result.message = "timed out", f"ended after {stage.limit:.0f} s"
    elif code:
        result.state, result.message = "failed", f"exit code {code}"
    elif missing:
        result.state, result.message = "failed", f"did not write {', '.join(missing)}"
    if not missing:  # figures of a failure are worth as much
        _read(result, folder)
    if result.state != "ok" and not result.findings.problems and (last := _last_line(folder, stage)):
        result.message += f": {last}"
    return result


def _read(result: Result, folder: Path) -> None:
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
    """The command as one types it at the top of the checkout; WORK is the folder of videos, store and runs."""
    words = ["python" if word == sys.executable else word.replace(f"{REPOSITORY}/", "") for word in command]
    return re.sub(rf"[^\s']*{WORK_PREFIX}\w+", "WORK", shlex.join(words))


def _run_command(stage: Stage, folder: Path) -> int | None:
    """Exit code, or None where the limit was reached; its processes are gone then."""
    with (folder / log_of(stage)).open("w", encoding="utf-8") as log:
        log.write(f"$ {readable(stage.command)}\n")
        log.flush()
        stdout = (folder / stage.stdout).open("w", encoding="utf-8") if stage.stdout else log
        try:
            process = subprocess.Popen(
                stage.command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
            try:
                return process.wait(stage.limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(process)
        finally:
            if stage.stdout:
                stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the stage's processes: politely first, for a launcher ends its own."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):  # then not politely
            process.wait(GRACE)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_line(folder: Path, stage: Stage) -> str:
    """The last words of a log."""
    lines = (folder / log_of(stage)).read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:200]
