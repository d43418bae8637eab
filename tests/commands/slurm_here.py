"""A Slurm of two nodes on this machine, with its real daemons: no munge, no accounting, ports that were free."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.commands.launching import HANG, REPOSITORY
from tests.commands.nodes import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
# The first node has this machine's name, which resolves: the processes of both look for it there.
HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, "zz2")


def missing() -> list[str]:
    """Programs of Slurm that are not here."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


class Slurm:
    """Runs as long as its `with` does.

    Args:
        folder: takes its state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._daemons = folder, list[subprocess.Popen]()
        self.conf = folder / "slurm.conf"

    def __enter__(self) -> "Slurm":
        user = getpass.getuser()
        (self._folder / "state").mkdir(parents=True)
        lines = [
            f"ClusterName=here\nSlurmctldHost={HOST}(127.0.0.1)\nSlurmctldPort={free_port()}",
            f"AuthType=auth/none\nCredType=cred/none\nSlurmUser={user}\nSlurmdUser={user}",
            f"StateSaveLocation={self._folder}/state\nSlurmdSpoolDir={self._folder}/spool-%n",
            f"SlurmctldPidFile={self._folder}/slurmctld.pid\nSlurmdPidFile={self._folder}/%n.pid",
            "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nSwitchType=switch/none",
            "SelectType=select/linear\nJobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none\nReturnToService=2\nKillWait=30",
            "SchedulerParameters=sched_interval=1,batch_sched_delay=0",
            *(f"NodeName={name} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2" for name in NODES),
            f"PartitionName=all Nodes={','.join(NODES)} Default=YES State=UP",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        for number, words in enumerate([["slurmctld", "-c"], *(["slurmd", "-N", name] for name in NODES)]):
            program = _program(words[0])
            assert program is not None
            with (self._folder / f"daemon-{number}.txt").open("w") as said:
                command = [program, *words[1:], "-D", "-f", str(self.conf)]
                self._daemons.append(subprocess.Popen(command, stdout=said, stderr=said))
        deadline = time.monotonic() + HANG
        while self.ask("sinfo", "--noheader", "--format=%D %t") != f"{len(NODES)} idle":
            assert all(daemon.poll() is None for daemon in self._daemons), self.logs("daemon-*.txt")
            assert time.monotonic() < deadline, self.ask("sinfo")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 60
        while self.ask("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=HANG)

    def ask(self, *words: str) -> str:
        """What one of Slurm's commands says."""
        done = subprocess.run(
            words,
            env=os.environ | {"SLURM_CONF": str(self.conf)},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )
        return (done.stdout + done.stderr).strip()

    def submit(self, script: str, *words: object, options: tuple[str, ...] = ()) -> str:
        """Hand launch/slurm/SCRIPT to sbatch, and return the job's number."""
        said = self.ask("sbatch", "--parsable", *options, str(REPOSITORY / "launch/slurm" / script), *map(str, words))
        assert said.isdigit(), said
        return said

    def state(self, job: str) -> dict[str, str]:
        """What `scontrol show job` knows."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait_for(self, job: str, *states: str) -> dict[str, str]:
        """Wait until the job is in one of these states."""
        deadline = time.monotonic() + HANG
        while (found := self.state(job)).get("JobState") not in states:
            assert found.get("JobState") not in ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY"), self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        return found

    def logs(self, names: str = "*.log") -> str:
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in sorted(self._folder.glob(names)))
