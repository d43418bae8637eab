"""Triton's own launch on a machine without a GPU: the compiler, the cache and the specialization are Triton's.

A stand-in for the driver takes the compiled binary, looks whether it is whole, as CUDA does, and computes nothing. As a
script, launched_here.py launches one kernel and prints the digest of its binary.
"""

import hashlib
import struct
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from modist_kernels.launch import launch
from modist_kernels.queue_infonce.kernels import backward_kernel


class Driver:
    """Of a GPU of compute capability 9.0.

    Attributes:
        binaries: digests of those that were launched.
    """

    def __init__(self) -> None:
        self.binaries: list[str] = []
        properties = {"max_shared_mem": 232_448}
        self.utils = SimpleNamespace(get_device_properties=lambda device: properties, load_binary=self._load)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def _load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, ...]:
        where, size, count = (*struct.unpack_from("<Q", binary, 40), *struct.unpack_from("<HH", binary, 58))
        if binary[:4] != b"\x7fELF" or where + size * count > len(binary):
            raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")
        self._digest = hashlib.sha256(binary).hexdigest()
        return None, None, 32, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: self.binaries.append(self._digest)


def launch_backward() -> None:
    """Launch the loss's backward as `queue_infonce` does."""
    terms, row = torch.zeros(4, 2), torch.zeros(2, 2, 64)
    launch(
        backward_kernel,
        (2, 2),
        *(terms, terms, terms, row, row, torch.zeros_like(row), 2, 1 / 0.07),
        PAIRED=True,
        BOTH=False,
        C=64,
        num_warps=1,
    )


if __name__ == "__main__":
    triton.runtime.driver.set_active(driver := Driver())  # pyright: ignore[reportArgumentType]
    launch_backward()
    print(driver.binaries[0])
