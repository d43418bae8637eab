"""How many threads a computation is worth: small ones lose more to waiting for each other than they gain."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_THREADS = 1 << 24
"""Multiplications of a product from which on torch's threads share it; below, it is over within milliseconds on one."""


@contextmanager
def threads_for(num_multiplications: int) -> Iterator[None]:
    """Compute in here on one thread, if a product is so small that a second would not pay.

    Where the cores are busy, a thread that waits for another's small part waits for the scheduler: fits of a second
    took half a minute.

    Args:
        num_multiplications: of the largest product in here.
    """
    before = torch.get_num_threads()
    if num_multiplications < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
