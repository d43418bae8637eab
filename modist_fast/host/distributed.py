"""Processes: one program for any number of them, on gloo or nccl. One process is a world of size 1."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.host.arithmetic import Arithmetic, computing
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, DeviceOption
from modist_fast.host.processes import end_with_launcher
from modist_fast.host.torch_names import all_gather_single
from modist_fast.host.unusable import unusable_gpus
from modist_fast.network import errors

Result = TypeVar("Result")


def default_processes() -> int:
    """Processes of a small run on this machine: 2, but on GPUs no more than there are, since each takes one."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return min(2, num_gpus or 2)


@dataclass(frozen=True)
class World:
    """Who this process is."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def join_world(
    device: DeviceOption, timeout: float = COLLECTIVE_TIMEOUT, arithmetic: Arithmetic | None = None
) -> Iterator[World]:
    """Join the process group that torchrun describes, or a world of one, and leave it at the end.

    Args:
        timeout: seconds that a rank waits for the others in one collective. On nccl torch's own watchdog ends the
            process then, and names the collective; no Python code learns of it.
        arithmetic: how the device computes until then; None: float32 products in full, as for what trains nothing.

    Raises:
        ConfigError: `--device cuda` without a usable device for this process, or `auto` where there is a GPU that
            torch cannot use; a process that is in a group already; ranks that do not meet; on gloo, a rank that did
            not come to a collective in time, or whose process ended.
    """
    if device == "auto" and (why := unusable_gpus()):
        raise ConfigError(
            f"--device auto: {why}. Install builds that match the driver (`make install` picks them; `modist "
            "doctor` says what is here), or pass --device cpu to run on the CPU."
        )
    if dist.is_initialized():
        raise ConfigError(
            "This process is in a process group already, and a run makes its own. Leave it first: "
            "torch.distributed.destroy_process_group()."
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE") if name not in os.environ]
    if "RANK" in os.environ and missing:
        raise ConfigError(
            f"RANK is set, but {', '.join(missing)} is not: half of a launcher's environment. Start with torchrun, or "
            "unset RANK for a run of one process."
        )
    if timeout < 1:
        raise ConfigError(f"--collective-timeout {timeout:g}: at least 1 second.")
    try:
        with _group(device, timedelta(seconds=timeout)) as world, computing(arithmetic or Arithmetic(tf32=False)):
            yield world
    except RuntimeError as error:
        if (explained := errors.of_run(error, timeout)) is not None:
            raise explained from error
        raise


@contextmanager
def _group(device: DeviceOption, timeout: timedelta) -> Iterator[World]:
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_cuda and torch.cuda.device_count() <= local_rank:
        raise ConfigError(
            f"--device {device}: local rank {local_rank} needs a CUDA device of its own, but torch sees "
            f"{torch.cuda.device_count()}. Start at most that many processes (--nproc-per-node), or pass "
            "--device cpu. `modist doctor` says what torch sees."
        )
    if use_cuda:
        torch.cuda.set_device(local_rank)
    end_with_launcher()
    backend = "nccl" if use_cuda else "gloo"
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    gpu = torch.device("cuda", local_rank) if use_cuda else None
    try:
        dist.init_process_group(backend, timeout=timeout, device_id=gpu, **alone)
    except RuntimeError as error:
        if (explained := errors.of_meeting(error)) is not None:
            raise explained from error
        raise
    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            local_rank=local_rank,
            device=gpu or torch.device("cpu"),
        )
        dist.barrier()  # gloo aborts a process whose peer has left while it still tidies up
    finally:
        dist.destroy_process_group()


def is_main_process() -> bool:
    """Whether this process is rank 0 of its world, or in no world."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_main(world: World, act: Callable[[], Result]) -> Result:
    """Have rank 0 act, and give what came of it to every rank: its result, or the end.

    The others wait, so none sees files that rank 0 is about to change, and none waits for a rank 0 that has failed.

    Args:
        act: returns something small that can be pickled.

    Raises:
        ConfigError: on the other ranks where `act` failed on rank 0, with its words. Rank 0 raises what `act` raised.
    """
    failure: Exception | None = None
    answer: list = [None, ""]
    if world.is_main:
        try:
            answer[0] = act()
        except Exception as error:  # whatever it is, the others must hear of it
            failure = error
            answer[1] = str(error) or repr(error)
    dist.broadcast_object_list(answer, 0)
    if failure is not None:
        raise failure
    if answer[1]:
        raise ConfigError(answer[1])
    return answer[0]


class KeysOnTheWay:
    """The keys that all ranks computed, on their way to all of them; whoever needs them calls `receive`.

    The key clips were dealt to the ranks by a permutation (ShuffleBN), so this one all_gather is all that travels: 128
    numbers a key, never a clip, and it serves as positives and as what the banks take in. Nothing waits for it until
    the queries are there.

    Args:
        local_keys: (M, B / world, C) keys of positions [rank * B / world, ...) of the dealt order.
        deal: (B,) int64; position j of the dealt order is sample deal[j].
        video_ids: (B,) int32 videos of the whole batch.
        damaged: (B,) bool, the samples of which this rank's query or key clips are damaged.
    """

    @torch.no_grad()
    def __init__(self, local_keys: Tensor, deal: Tensor, video_ids: Tensor, damaged: Tensor) -> None:
        num_modalities, num_local, dim = local_keys.shape
        self._deal = deal
        # Rank-major layout, so that the gathered buffer is the dealt order and no concatenation is needed.
        self._dealt = local_keys.transpose(0, 1).contiguous()
        self._agreed = video_ids.masked_fill(damaged, -1)
        self._works: list[dist.Work | None] = []
        if (world_size := dist.get_world_size()) > 1:
            mine, self._dealt = self._dealt, self._dealt.new_empty(num_local * world_size, num_modalities, dim)
            self._works.append(all_gather_single(self._dealt, mine, async_op=True))
            self._works.append(dist.all_reduce(self._agreed, dist.ReduceOp.MIN, async_op=True))

    @torch.no_grad()
    def receive(self) -> tuple[Tensor, Tensor]:
        """Wait for them; on a GPU the stream waits, not the host.

        Returns:
            (M, B, C), row b the keys of sample b; and (B,) int32 videos, -1 for a sample that any rank found damaged:
            the loss skips it, and in the banks its slot counts as empty. The same on every rank.
        """
        for work in self._works:
            if work is not None:
                work.wait()
        keys = torch.empty_like(self._dealt)
        keys[self._deal] = self._dealt
        return keys.transpose(0, 1).contiguous(), self._agreed


def least_over_ranks(number: int, device: torch.device) -> int:
    """The smallest of the ranks' numbers, which all of them get; waits for the device."""
    least = torch.tensor(number, device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def gather_rows(row: list[float], device: torch.device) -> Tensor:
    """(world, K) float64: every rank's list of K numbers. The result is on `device`, and may not be there yet."""
    mine = torch.tensor([row], dtype=torch.float64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    rows = mine.new_empty(dist.get_world_size(), len(row))
    all_gather_single(rows, mine)
    return rows


@torch.no_grad()
def mean_over_ranks(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place, in one message."""
    if not tensors or dist.get_world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
