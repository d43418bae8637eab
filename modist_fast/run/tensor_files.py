"""Tensors in a file of their own."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from modist_fast.host.whole_file import whole_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, which appears whole or not at all.

    It is readable for whom the umask lets read, as any other file of a run: safetensors' own save_file makes a file
    that is its owner's alone.

    Args:
        tensors: of any layout, on any device.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as half:
        half.write_bytes(save(plain, dict(metadata)))
