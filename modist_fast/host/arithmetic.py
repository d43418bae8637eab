"""How a device may compute: what torch spreads over five switches, set in one place and put back at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Arithmetic:
    """What the options of a command ask for."""

    tf32: bool = True
    """Products of float32 numbers on a GPU may round them to TF32's 10 bits, as bf16 and fp16 round them anyway."""
    deterministic: bool = False
    """Only ways of computing that give the same bits every time."""

    def words(self, device: torch.device) -> str:
        """For the log: what it comes to on `device`."""
        if device.type != "cuda":
            return "the same bits every time"
        products = "float32 products in TF32 (--no-tf32: in full)" if self.tf32 else "float32 products in full"
        same = "the same bits every time, slower (--deterministic)" if self.deterministic else "not the same bits twice"
        return f"{products}; {same}"


def arithmetic_of(config: Any) -> Arithmetic:
    """That of a command's options. One that trains nothing has no such options: fp32 then is fp32 in full."""
    if not hasattr(config, "tf32"):
        return Arithmetic(tf32=False)
    return Arithmetic(config.tf32, config.deterministic)


@contextmanager
def computing(how: Arithmetic) -> Iterator[None]:
    """Have torch compute like that in here, and as before afterwards.

    With `deterministic`, an operation that torch knows no reproducible way for raises RuntimeError and names itself.
    """
    backends, utils = torch.backends, cast(Any, torch.utils.deterministic)
    before = (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        utils.fill_uninitialized_memory,
    )
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = how.tf32
    if how.deterministic:
        os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)
        utils.fill_uninitialized_memory = False  # a launch for each new tensor; none is read unwritten
    try:
        yield
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before[:2]
        torch.use_deterministic_algorithms(before[2], warn_only=before[3])
        utils.fill_uninitialized_memory = before[4]
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)
