"""Nodes on one machine: each a torchrun agent with an address of its own on the loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.commands.held import held_file
from tests.commands.launching import HANG, REPOSITORY

PLACES = ("127.0.0.1", "127.0.0.2")
"""Addresses of the nodes. Ranks go by them: the first node has rank 0."""
# How long torch waits for a node that is late, and for signs of life: less than by default, on one machine.
SHORT = "last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Nodes:
    """Two nodes of one process each.

    Args:
        folder: takes what each node prints, node-N.txt.
        words: of what each process runs: a script and its options.
        nnodes: torchrun's: 2, or 1:2 where one goes on alone.
        host: the node that holds the rendezvous.
        launcher: torchrun, or what stands for it.
    """

    def __init__(
        self,
        folder: Path,
        words: Sequence[object],
        nnodes: str = "2",
        host: int = 0,
        launcher: Sequence[str] = ("-m", "torch.distributed.run"),
    ) -> None:
        self._folder, self._host, self._launcher = folder, host, launcher
        self._words, self._nnodes, self.port = list(map(str, words)), nnodes, free_port()
        self.agents: dict[int, subprocess.Popen] = {}

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            if agent.poll() is None:
                agent.terminate()  # its process ends with it
                agent.wait(timeout=HANG)

    def start(self, node: int, *more: str, program: Path = REPOSITORY) -> subprocess.Popen:
        """Start a node, also one that was killed.

        Args:
            more: options of torchrun.
            program: the folder of the source tree that it runs.
        """
        options = [
            *("--nnodes", self._nnodes, "--nproc-per-node", "1", "--local-addr", PLACES[node], "--max-restarts", "3"),
            *("--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"{PLACES[self._host]}:{self.port}"),
            *("--rdzv-conf", f"is_host={str(node == self._host).lower()},{SHORT}", *more),
        ]
        with (self._folder / f"node-{node}.txt").open("a") as said:
            self.agents[node] = subprocess.Popen(
                [sys.executable, *self._launcher, *options, *self._words],
                cwd=program,
                env=os.environ
                | {
                    "OMP_NUM_THREADS": "1",
                    "GLOO_SOCKET_IFNAME": "lo",
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return self.agents[node]

    def said(self, node: int) -> str:
        """All that a node has printed, on one line."""
        path = self._folder / f"node-{node}.txt"
        return " ".join(path.read_text(errors="replace").split()) if path.exists() else ""

    def wait_for(self, node: int, words: str, times: int = 1) -> None:
        """Wait until a node has said something."""
        deadline = time.monotonic() + HANG
        while self.said(node).count(words) < times:
            assert self.agents[node].poll() is None, self.said(node)[-5000:]
            assert time.monotonic() < deadline, self.said(node)[-5000:]
            time.sleep(0.05)

    def wait_until_held(self, run: Path) -> None:
        """Wait until the run holds still, see `held.py`."""
        deadline = time.monotonic() + HANG
        while not held_file(run).exists():
            assert any(agent.poll() is None for agent in self.agents.values()), self.all_said()
            assert time.monotonic() < deadline, self.all_said()
            time.sleep(0.02)

    def all_said(self) -> str:
        return "\n".join(f"node {node}: {self.said(node)[-5000:]}" for node in self.agents)

    def codes(self) -> list[int]:
        """Wait until all nodes have ended, and give their exit codes."""
        return [agent.wait(timeout=HANG) for agent in self.agents.values()]
