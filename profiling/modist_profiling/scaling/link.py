"""What a process sends to the others: counted as torch.distributed is asked for it, and read from its sockets."""

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The argument that holds what a process gives; what it receives is another. A barrier carries nothing.
_PAYLOAD = {
    "allreduce_": 0,
    "allreduce_coalesced_": 0,
    "broadcast_": 0,
    "reduce_": 0,
    "send": 0,
    "allgather_": 1,
    "_allgather_base_": 1,
    "gather_": 1,
    "reduce_scatter_": 1,
    "_reduce_scatter_base_": 1,
    "scatter_": 1,
    "alltoall_": 1,
    "alltoall_base_": 1,
}
_EMPTY = ("barrier", "recv_")


@dataclass(frozen=True)
class Message:
    """A kind of message: what a step sends is some of each kind."""

    phase: str
    operation: str
    """torch's name of the collective."""
    dtype: str


class CollectiveCounter(TorchDispatchMode):
    """Counts the payload of every collective within it, whoever asks for it: this project or torch's own DDP.

    All of them pass torch's dispatcher; its CommDebugMode listens there too, but counts calls, not bytes. Slows
    every operation, so it is for counting, not for timing.

    Args:
        phase: names what the process is doing when a collective is asked for.
    """

    def __init__(self, phase: Callable[[], str]) -> None:
        super().__init__()
        self._phase = phase
        self.num_bytes: Counter[Message] = Counter()
        """Bytes that this process gave, by kind: its part of a gather, the whole of what is reduced."""
        self.calls: Counter[Message] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func.__name__.split(".")[0], args)
        return func(*args, **(kwargs or {}))

    def _count(self, operation: str, args: Any) -> None:
        if operation in _EMPTY:
            return
        if operation not in _PAYLOAD:
            raise ValueError(f"collective {operation}: unknown which of its arguments is sent; add it to _PAYLOAD")
        tensors = _tensors(args[_PAYLOAD[operation]])
        dtypes = "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
        message = Message(self._phase(), operation, dtypes)
        self.num_bytes[message] += sum(tensor.nbytes for tensor in tensors)
        self.calls[message] += 1


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)]


_TCP_INFO_BYTES = 256
_BYTES_SENT = 200
"""Where struct tcp_info (linux/tcp.h) has tcpi_bytes_sent, a 64-bit number; Linux 4.19 or newer."""


def bytes_sent_on_sockets() -> int:
    """Bytes that the kernel has sent on this process's TCP connections, headers of gloo's messages included.

    An account that torch has no part in. Read it while no message is under way.

    Raises:
        OSError: this system does not tell.
    """
    total = 0
    handles = [entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_socket()]
    for handle in handles:
        with socket.socket(fileno=os.dup(int(handle))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                if len(info) < _BYTES_SENT + 8:
                    raise OSError("this kernel's TCP_INFO has no tcpi_bytes_sent")
                total += struct.unpack_from("=Q", info, _BYTES_SENT)[0]
    return total
