"""A CPU's stand-in for CUDA graphs: records what a part computes, and does it again on the very same tensors.

As with a graph, nothing on the host happens again, and whoever reads a tensor that the recording read, reads it at its
address of then. So a part that uses what the next step makes anew is found by its stale numbers.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modist_pipelines.clips.device_use import DEVICE_USE

Result = TypeVar("Result")


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[Any]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:  # a view stays one of the same memory
            self.calls.append((func, args, kwargs, tree_leaves(result)))
        return result


class RecordedCalls:
    """A `modist_fast.replay.Graph`. Unlike a real one it computes while it records, so the next replay is that."""

    def __init__(self) -> None:
        self._record = _Record()
        self._done = False

    def capture(self, part: Callable[[], Result]) -> Result:
        assert DEVICE_USE.is_alone, "another thread could use the device while a graph is recorded"
        with self._record, torch.autograd.set_multithreading_enabled(False):
            result = part()
        self._done = True
        return result

    @torch.no_grad()
    def replay(self) -> None:
        if self._done:
            self._done = False
            return
        for func, args, kwargs, results in self._record.calls:
            for old, new in zip(results, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
