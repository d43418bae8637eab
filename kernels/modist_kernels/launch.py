"""Launches of Triton kernels. A damaged file in Triton's cache costs a compilation, not the run.

Triton keeps what it compiles in a folder (`TRITON_CACHE_DIR`, by default in the home directory) that all ranks and
runs share, and believes what it finds there.
"""

import json
import logging
from typing import Any

from triton import knobs

logger = logging.getLogger("modist")

# What CUDA says of a binary that is cut short or is another kernel's.
_NO_BINARY = ("device kernel image is invalid", "named symbol not found")


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """`kernel[grid](*arguments, **options)`; compiled anew, said in the log, where the cache holds no sound kernel.

    Args:
        kernel: a `triton.jit` function.
    """
    try:
        kernel[grid](*arguments, **options)
        return
    except Exception as error:
        if not _is_damage(error):
            raise
        folder = knobs.cache.dir
        logger.warning(
            "%s holds a damaged %s (%s: %s): it is compiled anew. Should this come back, remove the folder.",
            folder,
            getattr(kernel, "__name__", kernel),
            type(error).__name__,
            error,
        )
    kernel.device_caches.clear()  # of this process: it may hold the kernel already
    with knobs.compilation.scope():
        knobs.compilation.always_compile = True
        kernel[grid](*arguments, **options)


def _is_damage(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _NO_BINARY)
    in_cache = isinstance(error, OSError) and str(error.filename or "").startswith(str(knobs.cache.dir))
    return in_cache or isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
