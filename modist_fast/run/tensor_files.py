"""Tensors in a file of their own."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, which appears whole or not at all.

    It is readable for whom the umask lets read, as any other file of a run: safetensors' own save_file makes a file
    that is its owner's alone.

    Args:
        tensors: of any layout, on any device.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    half.write_bytes(save(plain, dict(metadata)))
    os.replace(half, path)
