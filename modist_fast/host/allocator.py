"""Host memory for training on a CPU: keep what is freed for the next step instead of giving it back."""

import ctypes

import torch

# mallopt(3), glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory(device: torch.device) -> str:
    """Have glibc reuse the memory of one step's activations for the next.

    By default it returns large blocks to the kernel as soon as they are freed, which then hands out new ones page by
    page, zeroed: a tenth of a CPU step. A GPU's activations are the CUDA allocator's, which keeps them anyway.

    Returns:
        What was done, or why nothing was, in one line.
    """
    if device.type != "cpu":
        return "the CUDA allocator's own"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return "as the C library has it: it has no mallopt"
    kept = mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return "freed memory is kept for the next step" if kept else "as the C library has it: it refused"
