"""Watch kernels in Triton's interpreter: accesses out of bounds, stores that race, bytes moved.

The interpreter reads and writes raw addresses, so a wrong one returns garbage in silence. Inside `watch()` every
tensor argument of a launch is a copy between two red zones, and every access is checked against it by name.
Needs TRITON_INTERPRET=1 before the kernels are imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from triton.runtime import interpreter

RED_ZONE = 1 << 20  # bytes on each side of an argument
_NOBODY = -1


class AccessError(Exception):
    """A kernel touched what it must not; the message names kernel, argument and program."""


@dataclass
class Argument:
    """A tensor argument of a launch, between red zones."""

    name: str
    storage: torch.Tensor  # bytes, red zones included
    tensor: torch.Tensor
    start: int  # addresses
    stop: int
    writers: np.ndarray  # program that stored each byte
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def num_unwritten(self) -> int:
        """Bytes that no program stored."""
        return int((self.writers == _NOBODY).sum())


@dataclass
class Launch:
    """One launch and what it moved."""

    kernel: str
    arguments: dict[str, Argument]
    num_programs: int = 0

    @property
    def bytes_moved(self) -> int:
        """Bytes of all loads and stores that were not masked off."""
        return sum(a.bytes_read + a.bytes_written for a in self.arguments.values())


@dataclass
class Watch:
    """All launches since the start of `watch()`."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def bytes_moved(self) -> int:
        return sum(launch.bytes_moved for launch in self.launches)

    def bytes_read(self, argument: str) -> int:
        """Bytes that all launches read of their argument of this name."""
        return sum(launch.arguments[argument].bytes_read for launch in self.launches if argument in launch.arguments)

    # -- called by the interpreter, see watch()

    def begin(self, kernel: str, names: list[str], values: list[object]) -> list[object]:
        launch = Launch(kernel, {})
        replaced = []
        for name, value in zip(names, values, strict=False):
            if isinstance(value, torch.Tensor):
                launch.arguments[name] = _fence(name, value)
                value = launch.arguments[name].tensor
            replaced.append(value)
        self.launches.append(launch)
        return replaced

    def load(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int) -> None:
        touched = addresses[mask]
        if touched.size:
            self._argument(touched, itemsize, "load").bytes_read += touched.size * itemsize

    def store(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int, program: int) -> None:
        touched = addresses[mask]
        if not touched.size:
            return
        argument = self._argument(touched, itemsize, "store")
        argument.bytes_written += touched.size * itemsize
        first_bytes = (touched - argument.start).astype(np.int64)
        writers = argument.writers[first_bytes]
        others = writers[(writers != _NOBODY) & (writers != program)]
        if others.size:
            raise AccessError(
                f"{self.launches[-1].kernel}: programs {others[0]} and {program} both store to {argument.name}"
            )
        for byte in range(itemsize):
            argument.writers[first_bytes + byte] = program

    def _argument(self, touched: np.ndarray, itemsize: int, access: str) -> Argument:
        low, high = int(touched.min()), int(touched.max()) + itemsize
        launch = self.launches[-1]
        for argument in launch.arguments.values():
            if argument.start <= low and high <= argument.stop:
                return argument
            if argument.start - RED_ZONE <= low and high <= argument.stop + RED_ZONE:
                size = argument.stop - argument.start
                raise AccessError(
                    f"{launch.kernel}: {access} out of bounds of {argument.name}: bytes {low - argument.start} to "
                    f"{high - argument.start} of {size}"
                )
        raise AccessError(f"{launch.kernel}: {access} far from every argument")


def _fence(name: str, tensor: torch.Tensor) -> Argument:
    assert tensor.is_contiguous(), f"{name} is not contiguous"
    size = tensor.numel() * tensor.element_size()
    storage = torch.full((RED_ZONE * 2 + max(size, 1),), 0xFF, dtype=torch.uint8)
    inner = storage[RED_ZONE : RED_ZONE + size].view(tensor.dtype).view(tensor.shape)
    inner.copy_(tensor)
    start = inner.data_ptr()
    return Argument(name, storage, inner, start, start + size, np.full(size, _NOBODY, dtype=np.int32))


@contextmanager
def watch() -> Iterator[Watch]:
    """Check and count all accesses of the kernels launched inside.

    Raises:
        AccessError: (wrapped in the interpreter's own error) on the first access out of bounds or racing store.
    """
    seen = Watch()
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    originals = (
        executor._init_args_hst,
        executor._restore_args_dev,
        builder.create_masked_load,
        builder.create_masked_store,
        builder.set_grid_idx,
    )
    program = [0]

    def init_arguments(self, args_dev, kwargs):
        return seen.begin(self.fn.__name__, self.arg_names, list(args_dev)), dict(kwargs)

    def restore_arguments(self, args_dev, args_hst, kwargs, kwargs_hst):
        for original, copy in zip(args_dev, args_hst, strict=True):
            if isinstance(original, torch.Tensor):
                original.copy_(copy)

    def masked_load(self, ptrs, mask, other, *rest):
        seen.load(ptrs.data, mask.data.astype(bool), interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize)
        return originals[2](self, ptrs, mask, other, *rest)

    def masked_store(self, ptrs, value, mask, *rest):
        itemsize = interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize
        seen.store(ptrs.data, mask.data.astype(bool), itemsize, program[0])
        return originals[3](self, ptrs, value, mask, *rest)

    def set_grid_index(self, x, y, z):
        program[0] = seen.launches[-1].num_programs
        seen.launches[-1].num_programs += 1
        return originals[4](self, x, y, z)

    replacements = (init_arguments, restore_arguments, masked_load, masked_store, set_grid_index)
    try:
        _install(executor, builder, replacements)
        yield seen
    finally:
        _install(executor, builder, originals)


def _install(executor, builder, functions) -> None:
    executor._init_args_hst, executor._restore_args_dev = functions[:2]
    builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx = functions[2:]
