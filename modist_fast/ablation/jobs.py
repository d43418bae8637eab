"""Running the commands of an ablation: side by side, each once, a failure of one not the end of the others."""

import fcntl
import json
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modist_fast.errors import ConfigError

log = logging.getLogger("modist")

_TAIL = 15  # lines of a failed job's log that are shown
_COMMAND_NAME = "command.json"


@dataclass(frozen=True)
class Job:
    """A command that leaves `result` behind when it is done."""

    name: str
    command: tuple[str, ...]
    folder: Path
    """Its command and its log are kept here."""
    result: Path
    needs: tuple[str, ...] = ()
    """Jobs of earlier stages without which it cannot run."""

    @property
    def is_done(self) -> bool:
        return self.result.exists()

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


def check_same_commands(jobs: Sequence[Job]) -> None:
    """Refuse to go on with jobs that were begun with other options.

    Raises:
        ConfigError: naming the job and what differs.
    """
    for job in jobs:
        path = job.folder / _COMMAND_NAME
        if not path.exists():
            continue
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != list(job.command[1:]):
            raise ConfigError(
                f"{job.folder} was begun as `{shlex.join(before)}`; now it would be "
                f"`{shlex.join(job.command[1:])}`. Repeat the options of the first call, or give another --out."
            )


def run_jobs(jobs: Sequence[Job], side_by_side: int, failed: dict[str, str]) -> None:
    """Run those that are not done yet.

    Args:
        side_by_side: how many at a time.
        failed: names of jobs that failed before, to the reason; new ones are added.
    """
    check_same_commands(jobs)
    waiting = []
    for job in jobs:
        if lacking := [name for name in job.needs if name in failed]:
            failed[job.name] = f"not run: it needs {', '.join(lacking)}"
        elif job.is_done:
            log.info("%s: done before", job.name)
        else:
            waiting.append(job)
    children = _Children()
    with ThreadPoolExecutor(max(1, side_by_side)) as pool:
        try:
            reasons = pool.map(children.run, waiting)
            failed |= {job.name: reason for job, reason in zip(waiting, reasons, strict=True) if reason is not None}
        except BaseException:
            children.stop()
            raise


class _Children:
    """The processes of the jobs that run, so that a stop of the ablation stops them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, job: Job) -> str | None:
        """Run a job to its end; why it failed, or None."""
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / _COMMAND_NAME).write_text(json.dumps(job.command[1:]) + "\n", encoding="utf-8")
        with job.log.open("ab") as output:
            # The child inherits the lock with the file, and holds it as long as it lives: even if this process is
            # killed, the next ablation will not run the same job beside it.
            try:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"still running since an earlier call: wait for it, or end the process that holds {job.log}"
            with self._lock:
                if self._stopped:
                    return "not run: stopped"
                log.info("%s: %s", job.name, shlex.join(job.command))
                # One thread a process, unless the user says otherwise: jobs run side by side.
                environment = {"OMP_NUM_THREADS": "1"} | os.environ
                child = subprocess.Popen(job.command, stdout=output, stderr=subprocess.STDOUT, env=environment)
                self._running.add(child)
            code = child.wait()
        with self._lock:
            self._running.discard(child)
        if code == 0 and job.is_done:
            log.info("%s: done", job.name)
            return None
        reason = f"exit code {code}" if code else f"exit code 0, but no {job.result}"
        tail = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        log.error("%s failed (%s); the end of %s:\n%s", job.name, reason, job.log, "\n".join(tail))
        return reason

    def stop(self) -> None:
        """Ask all that run to stop: a pre-training run saves its state first."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.terminate()
