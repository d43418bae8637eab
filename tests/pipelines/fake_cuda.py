"""A stand-in for CUDA streams and pools of memory, which replays the order of work and finds what it does not order.

Everything runs at once on the CPU, with the right numbers. Beside it stands what a GPU would have been told: each piece
of work, on its stream, with the memory that it reads and writes; events, waits, and the moments at which memory goes
back to its pool. Whatever that leaves open a GPU may do in any order, so a read is right only where it *must* come
after the write of what it reads and before the release of its memory.

Host threads are taken as one, in the order in which they really ran.
"""

import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

_from_dlpack = torch.from_dlpack  # `FakeCuda.install` puts another one in its place


@dataclass
class Block:
    """A piece of memory."""

    owner: str
    """"dali", whose pool takes it back at once, or "torch", which orders its next use on the stream it came from."""
    stream: int
    write: int | None = None
    reads: list[tuple[int, str]] = field(default_factory=list)
    recorded: set[int] = field(default_factory=set)
    holders: int = 0
    released: int | None = None


class Timeline:
    """What was enqueued where, as a graph: an edge from what must be over to what begins after it."""

    def __init__(self) -> None:
        self._before: list[set[int]] = [set()]
        self._host = 0
        self._last: dict[int, int] = {}
        self._lock = threading.RLock()
        self.blocks: list[Block] = []

    def _node(self, *before: int | None) -> int:
        self._before.append({node for node in before if node is not None})
        return len(self._before) - 1

    def host(self, *waits_for: int | None) -> int:
        """A step of the host, after it has waited for some nodes."""
        with self._lock:
            self._host = self._node(self._host, *waits_for)
            return self._host

    def enqueue(self, stream: int, *waits_for: int | None) -> int:
        """Work on a stream."""
        with self._lock:
            self._last[stream] = self._node(self.host(), self._last.get(stream), *waits_for)
            return self._last[stream]

    def last(self, stream: int) -> int | None:
        return self._last.get(stream)

    def release(self, block: Block) -> None:
        with self._lock:
            now = self.host()
            if block.owner == "dali":
                block.released = now
                return
            streams = {block.stream, *block.recorded}
            block.released = self._node(now, *(self.last(stream) for stream in streams))

    def _ancestors(self, node: int) -> set[int]:
        found, left = set(), [node]
        while left:
            for before in self._before[left.pop()]:
                if before not in found:
                    found.add(before)
                    left.append(before)
        return found

    def faults(self) -> list[str]:
        """Each read that may come before its write or after its release."""
        found = []
        for number, block in enumerate(self.blocks):
            safe = self._ancestors(block.released) if block.released is not None else None
            for read, name in block.reads:
                if safe is not None and read not in safe:
                    found.append(f"{name} reads memory {number} of {block.owner} after its release")
                if block.write is not None and block.write not in self._ancestors(read):
                    found.append(f"{name} reads memory {number} of {block.owner} before it is written")
        return found


class FakeCuda:
    """What torch.cuda offers to the code under test; stream 0 is the default stream, of every thread."""

    DALI = -1

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._current = threading.local()
        self._num_streams = 0
        self._of_storage: dict[int, Block] = {}
        self.touched: set[tuple[str, int]] = set()
        """Name of each thread that gave work, without its number, and its current device, which torch begins at 0."""
        self.graphs: set[int | None] = set()
        """Devices of the graphs that were made."""

    def set_device(self, device: torch.device | int) -> None:
        self._current.device = device if isinstance(device, int) else device.index

    def current_device(self) -> int:
        return getattr(self._current, "device", 0)

    def current(self) -> int:
        self.touched.add((threading.current_thread().name.rstrip("-_0123456789"), self.current_device()))
        return getattr(self._current, "stream", 0)

    def new_stream(self, device: Any = None) -> "FakeStream":
        self._num_streams += 1
        return FakeStream(self, self._num_streams)

    def current_stream(self, device: Any = None) -> "FakeStream":
        return FakeStream(self, self.current())

    @contextmanager
    def on(self, stream: "FakeStream"):
        before, self._current.stream = self.current(), stream.number
        yield
        self._current.stream = before

    def hold(self, holder: Any, block: Block) -> None:
        """The block lives as long as its holders."""
        block.holders += 1
        weakref.finalize(holder, self._let_go, block).atexit = False

    def _let_go(self, block: Block) -> None:
        block.holders -= 1
        if not block.holders:
            self.timeline.release(block)
            self._of_storage = {key: kept for key, kept in self._of_storage.items() if kept is not block}

    def new_block(self, owner: str, stream: int, writer: int) -> Block:
        block = Block(owner, stream, write=writer)
        self.timeline.blocks.append(block)
        return block

    def tensor(self, values: Tensor, block: Block) -> "FakeTensor":
        fake = values.as_subclass(FakeTensor)
        fake.cuda = self
        self._of_storage[_storage(values)] = block
        self.hold(fake, block)
        return fake

    def block_of(self, tensor: Tensor) -> Block | None:
        return self._of_storage.get(_storage(tensor))

    def read(self, tensor: Tensor, name: str, stream: int | None = None) -> int:
        node = self.timeline.enqueue(self.current() if stream is None else stream)
        block = self.block_of(tensor)
        assert block is not None
        block.reads.append((node, name))
        return node

    def from_dlpack(self, lent: "FakeOutput") -> "FakeTensor":
        """Makes torch's current stream wait for DALI's, as DLPack has it."""
        self.timeline.enqueue(self.current(), self.timeline.last(self.DALI))
        return self.tensor(lent.values, lent.block)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeCuda":
        monkeypatch.setattr(torch.cuda, "Stream", self.new_stream)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", self.current_stream)
        monkeypatch.setattr(torch.cuda, "set_device", self.set_device)
        monkeypatch.setattr(torch.cuda, "current_device", self.current_device)
        monkeypatch.setattr(torch.cuda, "Event", lambda: FakeEvent(self))
        monkeypatch.setattr(torch, "from_dlpack", self.from_dlpack)
        return self


def _storage(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.untyped_storage().data_ptr()


@dataclass(frozen=True)
class FakeStream:
    cuda: FakeCuda
    number: int

    def wait_event(self, event: "FakeEvent") -> None:
        self.cuda.timeline.enqueue(self.number, event.node)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.node = cuda, None

    def record(self, stream: FakeStream) -> None:
        self.node = self.cuda.timeline.last(stream.number)

    def synchronize(self) -> None:
        self.cuda.timeline.host(self.node)


class FakeTensor(Tensor):
    """A tensor of the CPU that passes for one of a GPU: every operation is work on the current stream."""

    cuda: FakeCuda

    def record_stream(self, stream: FakeStream) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        block = self.cuda.block_of(self)
        assert block is not None
        block.recorded.add(stream.number)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            fakes = [a for part in (args, *(a for a in args if isinstance(a, list | tuple))) for a in part]
            fakes = [a for a in fakes if isinstance(a, FakeTensor)]
            cuda = fakes[0].cuda
            name = getattr(func, "__name__", str(func))
            if name == "to" and args[1:] and getattr(args[1], "type", None) == "cuda":
                return args[0]
            if name == "__get__" or name in ("size", "stride", "dim", "numel", "is_contiguous", "data_ptr", "__len__"):
                return func(*args, **kwargs)  # what the host knows
            if name in ("numpy", "item", "tolist"):  # a blocking copy
                for fake in fakes:
                    cuda.timeline.host(cuda.read(fake, name))
                return func(*args, **kwargs)
            made = func(*args, **kwargs)
        outputs = made if isinstance(made, list | tuple) else [made]
        if not all(isinstance(out, Tensor) for out in outputs):
            return made
        old = {_storage(fake): cuda.block_of(fake) for fake in fakes}
        views = all(_storage(out) in old for out in outputs)
        if not views:
            reads = [cuda.read(fake, name) for fake in fakes]
            writer = cuda.timeline.enqueue(cuda.current(), *reads)
        wrapped = []
        for out in outputs:
            block = old.get(_storage(out)) or cuda.new_block("torch", cuda.current(), writer)
            wrapped.append(cuda.tensor(out, block))
        return type(made)(wrapped) if isinstance(made, list | tuple) else wrapped[0]


class FakeOutput:
    """A graph's output in DALI's memory."""

    def __init__(self, cuda: FakeCuda, values: Tensor) -> None:
        self.values = values
        self.block = cuda.new_block("dali", cuda.DALI, cuda.timeline.enqueue(cuda.DALI))
        cuda.hold(self, self.block)

    def as_tensor(self) -> "FakeOutput":
        return self


class FakeGraph:
    """A graph of the CPU whose output passes for one of a GPU. What lies on the device it reads on torch's stream."""

    def __init__(self, cuda: FakeCuda, graph: Any) -> None:
        self._cuda, self._graph = cuda, graph

    def build(self) -> None:
        self._graph.build()

    def feed_input(self, name: str, rows: Any) -> None:
        if isinstance(rows, list) and isinstance(rows[0], FakeTensor):
            copied = [self._cuda.read(row, "feed_input") for row in rows]
            self._cuda.timeline.enqueue(FakeCuda.DALI, *copied)
            with torch._C.DisableTorchFunctionSubclass():
                rows = [row.numpy().copy() for row in rows]
        self._graph.feed_input(name, rows)

    def run(self) -> tuple[FakeOutput]:
        (output,) = self._graph.run()
        # Its own memory, which nothing but this output and its tensors hold.
        return (FakeOutput(self._cuda, _from_dlpack(output.as_tensor()).clone()),)
