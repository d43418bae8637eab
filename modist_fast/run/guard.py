"""What a file of tensors may say of itself: no more than it holds, so that reading it costs what it weighs."""

import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

_SMALL = 1 << 20  # bytes; a number spread over a small tensor harms nobody


def check_zip(path: Path) -> None:
    """Look at the parts of a file of torch.save before any is read.

    Raises:
        zipfile.BadZipFile: a part is compressed, which torch.save never does, or they claim more than the file has.
    """
    with zipfile.ZipFile(path) as parts:
        entries = parts.infolist()
    packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise zipfile.BadZipFile(f"{packed} is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise zipfile.BadZipFile("its parts claim to be larger than the file")


def check_spread(value: Any, name: str = "") -> None:
    """Refuse tensors of which a few stored numbers claim to be many.

    Raises:
        ValueError: naming the tensor.
    """
    if isinstance(value, Tensor):
        claimed = value.numel() * value.element_size()
        if claimed > max(_SMALL, value.untyped_storage().nbytes()):
            raise ValueError(f"{name} claims {claimed} bytes, and has {value.untyped_storage().nbytes()}")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_spread(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_spread(item, f"{name}.{index}")
