"""From DALI's memory to torch's, and from the thread that makes clips to the one that uses them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modist_pipelines.clips.device_use import DEVICE_USE


def numbered(device: torch.device) -> torch.device:
    """The device with its number: "cuda" is the calling thread's current GPU, which to another thread may be GPU 0."""
    no_number = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if no_number else device


def work_on(device: torch.device) -> None:
    """Make a GPU the calling thread's current device; nothing on a CPU. For the start of every thread that touches one.

    A new thread is on GPU 0 whatever the others are on: pinned memory, events and contexts that name no device would
    come to lie there, a few hundred MB for each process of a machine.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


class Handed(NamedTuple):
    """A tensor that is handed from one thread to another."""

    tensor: Tensor
    ready: "torch.cuda.Event | None" = None
    """On a GPU: when its contents are there. None on a CPU, where they always are."""

    def receive(self) -> Tensor:
        """The tensor, for work on the calling thread's current stream from now on."""
        receive(self.ready, self.tensor)
        return self.tensor


def receive(ready: "torch.cuda.Event | None", *tensors: Tensor) -> None:
    """Let the calling thread's current stream use tensors that another stream made.

    Without the event it could read too early. Without `record_stream` torch would give their memory to that other
    stream as soon as the last reference is dropped, while this stream's work on them has yet to run.
    """
    if ready is None:
        return
    for tensor in tensors:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(ready)
        tensor.record_stream(stream)


class Handover:
    """Takes the outputs of DALI graphs over into torch's memory, on a CUDA stream that nothing else uses.

    `from_dlpack` makes torch's stream wait for DALI's, but nothing makes DALI wait for torch: DALI uses the memory of
    an output again as soon as the last reference to it is dropped. A copy that queued behind a training step would
    read what the next clips have overwritten. On a stream of its own the copy does not queue, and the output is held
    until it is over.

    Args:
        device: where the graphs' outputs lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Torch's work within goes to this stream; DALI takes torch's current stream to read inputs, too. Runs of DALI
        graphs belong within: no CUDA graph is recorded meanwhile."""
        if self._stream is None:
            yield
            return
        with DEVICE_USE.shared(), torch.cuda.stream(self._stream):
            yield

    def take(self, output: Any, change: Callable[[Tensor], Tensor] | None = None) -> Handed:
        """A graph's dense output as a tensor: on a CPU without a copy, on a GPU a copy that is over.

        Args:
            output: of a graph; nobody else may hold on to its memory.
            change: makes the tensor from the output, in memory of its own.
        """
        if self._stream is None:
            tensor = torch.from_dlpack(output.as_tensor())
            return Handed(change(tensor) if change else tensor)
        with self.stream():
            lent = torch.from_dlpack(output.as_tensor())
            tensor = change(lent) if change else lent.clone()
            ready = torch.cuda.Event()
            ready.record(self._stream)
            ready.synchronize()  # only now may `output` and `lent` be let go
        return Handed(tensor, ready)
