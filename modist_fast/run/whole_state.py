"""A state's content: brought to the host, its digest, and its way to the disk with what went wrong there."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modist_fast.errors import ConfigError

_MB = 1e6


class SaveError(ConfigError):
    """A file could not be written: no room, no right, or the disk failed. Nothing of it is left."""


@torch.no_grad()
def snapshot(value: Any) -> Any:
    """A copy on the host that later steps cannot change; tensors that share memory become separate ones.

    Args:
        value: tensors in nested mappings, lists and tuples, beside any other values.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return value


def digest_of(state: Mapping[str, Any]) -> str:
    """SHA-256 of the names, types, shapes and bytes in a state.

    Args:
        state: as for `snapshot`, on any device.
    """
    digest = hashlib.sha256()
    _add(digest, "", state)
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)  # bfloat16 has no NumPy type
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _add(digest, f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _add(digest, f"{name}.{index}", item)
    else:
        digest.update(f"{name} {value!r}\n".encode())


class _Disk:
    """A file that remembers why it could not be written: torch.save's own error says that it could not be, not why."""

    def __init__(self, file: Any) -> None:
        self._file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_durably(state: Mapping[str, Any], half: Path) -> None:
    """Write a state, and wait until the disk has it. A file that cannot be written whole is removed.

    Raises:
        SaveError: saying how much was needed, and how much is free.
    """
    disk = None
    try:
        with half.open("wb") as file:
            disk = _Disk(file)
            torch.save(state, disk)  # pyright: ignore[reportArgumentType], a file as far as torch.save asks
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else disk and disk.error
        discard(half)
        if reason is None:
            raise
        raise SaveError(cannot_write(half.parent, reason, num_bytes(state))) from error
    except BaseException:
        discard(half)
        raise


def discard(path: Path) -> None:
    """Remove a file, if that can be done: on a disk that became read-only it stays, and is removed by a later run."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def cannot_write(folder: Path, error: OSError, needed: int) -> str:
    """Why a file of `needed` bytes was not written into `folder`, in a sentence."""
    try:
        free = f"{shutil.disk_usage(folder).free / _MB:.1f} MB are free"
    except OSError:
        free = "free space is unknown"
    return f"{folder} cannot be written ({error.strerror or error}): {needed / _MB:.1f} MB are needed, {free}."


def num_bytes(value: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(num_bytes(item) for item in value.values())
    return sum(num_bytes(item) for item in value) if isinstance(value, list | tuple) else 0
