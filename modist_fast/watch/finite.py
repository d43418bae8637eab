"""Whether every number of a state is one: asked before anything is kept, and again when it is read."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

REMEDY = "Lower --optim.lr, lengthen --optim.warmup-epochs, or try --precision fp32."
"""What to do about training that diverged."""


@torch.no_grad()
def flaw_of(state: Mapping[str, Any]) -> str | None:
    """What is wrong with a state in which a tensor holds an infinity or a NaN; None where none does.

    One pass over the tensors where they lie; the device is waited for once.

    Args:
        state: tensors in nested mappings and lists, beside any other values.

    Returns:
        How many tensors are bad, and the first one's name, in words that follow a subject.
    """
    found = dict(_floating(state))
    if not found:
        return None
    # An infinity is an extreme, and a NaN makes both extremes NaN. Nothing is summed, so nothing overflows.
    extremes = [torch.stack([extreme.double() for extreme in torch.aminmax(tensor)]) for tensor in found.values()]
    device = extremes[0].device
    bad = ~torch.stack([pair.to(device, non_blocking=True) for pair in extremes]).isfinite().all(dim=1)
    names = [name for name, is_bad in zip(found, bad.tolist(), strict=True) if is_bad]
    if not names:
        return None
    return f"has numbers that are not finite in {len(names)} of its {len(found)} tensors, the first of them {names[0]}"


def _floating(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _floating(item, f"{name}.{key}" if name else str(key))
