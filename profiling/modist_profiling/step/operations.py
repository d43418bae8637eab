"""How many operations a piece of training hands to its device."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Memory and bookkeeping, without work for the device. DDP reads an entry of a host tensor for each parameter.
FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "detach",
    "resize_",
    "set_",
    "_unsafe_view",
    "lift_fresh",
    "device",
}
FREE |= {"_local_scalar_dense", "_record_function_enter_new", "_record_function_exit"}


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[-1]
        if not func.is_view and name not in FREE:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> Counter[str]:
    """Calls below autograd, backward's among them, that compute something, by ATen name; views and
    allocations are free.

    On a GPU each is a kernel launch or a few; an operation on a list of tensors (`_foreach_lerp_`) counts once, as it
    is launched in a few chunks. What a compiled region does counts as the calls that it was compiled to make.
    """
    with _Count() as count, torch.autograd.set_multithreading_enabled(False):
        run()
    return count.calls
