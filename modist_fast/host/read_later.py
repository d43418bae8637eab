"""Numbers that a device is still to compute, brought to the host without a wait for anything launched after them."""

import torch
from torch import Tensor


class ReadLater:
    """A copy of `tensor` on its way to the host.

    `.tolist()` of a CUDA tensor waits for all that was launched before it is called, the step just begun included.
    Here the copy is launched at once, into pinned memory, and only its own event is waited for.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        self._tensor = tensor
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def tolist(self) -> list:
        """The numbers; waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.tolist()
