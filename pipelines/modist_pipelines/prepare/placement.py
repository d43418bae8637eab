"""How many worker processes there are, and which GPU each computes flow on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modist_pipelines.prepare.flow import RAFT_BATCH, FlowName
from modist_pipelines.prepare.workers import Pool, WorkerPool

_MAX_PER_GPU = 4
# Estimates in bytes, none of them measured: a process's CUDA context with its libraries; and for RAFT, what the
# encoders hold for a pixel of a pair, and the pyramid of all pairs of places at 1/8, a third more than its base.
_CONTEXT = 1.5e9
_PER_PIXEL = 700.0
_ASPECT = 16 / 9
_SHARE = 0.9  # of the free memory, which is to be filled


@dataclass(frozen=True)
class Placement:
    """The workers of a run."""

    num_workers: int
    num_gpus: int
    """That workers compute flow on; 0 on a CPU."""

    @property
    def gpu_share(self) -> float:
        """Of a GPU, for each worker."""
        return 1 / self._most_on_one() if self.num_gpus else 0.0

    def _most_on_one(self) -> int:
        return -(-self.num_workers // self.num_gpus)

    def __str__(self) -> str:
        workers = f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''}"
        if not self.num_gpus:
            return f"{workers}, no GPU"
        return f"{workers} on {self.num_gpus} GPU{'s' if self.num_gpus > 1 else ''}, {self._most_on_one()} a GPU"


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def place(asked: int, free: Sequence[float], flow: FlowName, short_side: int, cores: int | None = None) -> Placement:
    """
    Args:
        asked: workers; 0 takes one for each core, but on GPUs no more than four each, as their memory allows.
        free: bytes of each GPU; none where flow is computed on the CPU.
        cores: of all machines; by default of this one.
    """
    cores = num_cores() if cores is None else cores
    if not free:
        return Placement(asked or cores, 0)
    fitting = int(min(free) * _SHARE / worker_bytes(flow, short_side))
    # Fewer than one for each GPU would leave it idle, whatever the cores.
    automatic = max(len(free), min(cores, len(free) * max(1, min(_MAX_PER_GPU, fitting))))
    workers = asked or automatic
    return Placement(workers, min(workers, len(free)))


def worker_bytes(flow: FlowName, short_side: int) -> float:
    """Memory of a GPU that a worker is expected to take, in bytes: an estimate, for frames of 16 to 9."""
    pixels = short_side**2 * _ASPECT
    if flow == "nvof":  # frames and fields of a batch are small beside the context
        return _CONTEXT
    return _CONTEXT + RAFT_BATCH * (_PER_PIXEL * pixels + 4 / 3 * 4 * (pixels / 64) ** 2)


def free_bytes(pool: Pool | None = None) -> list[float]:
    """Free memory of each GPU. A process that ends asks, so that this one holds none of it.

    Args:
        pool: of one worker, whose GPUs are meant; by default those of this machine.
    """
    found: list[list[float]] = []

    def give_up(task: None, report: list[float] | None, code: int | None) -> None:
        raise RuntimeError(f"the process that asked the GPUs for their free memory ended with exit code {code}")

    if pool is not None:
        pool.run([None], _ask, lambda task, free: found.append(free), give_up)
        return found[0]
    with WorkerPool(1) as own:
        own.run([None], _ask, lambda task, free: found.append(free), give_up)
    return found[0]


def _ask(task: None, report: Callable[[list[float]], None]) -> None:
    import torch

    report([float(torch.cuda.mem_get_info(gpu)[0]) for gpu in range(torch.cuda.device_count())])
