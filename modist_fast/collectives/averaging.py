"""The average of gradients over the ranks, in half the bytes: bf16 on the wire, sums in float32.

Each rank owns a part of a bucket. It gets that part from all ranks in bf16, adds the parts up in float32, and sends the
sum, in bf16 again, to all: so a gradient is rounded twice, and not once more for every rank as where a ring adds up in
bf16. All ranks take the owner's sum, so their weights stay the same to the bit.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from modist_fast.host.torch_names import all_gather_single


class Bfloat16Average:
    """Averages DDP's buckets. Call it in the order of the buckets, which is the same on all ranks.

    On a GPU both exchanges and the sum run on a stream of their own, so that backward goes on meanwhile; they are begun
    together, hence the order of the exchanges does not depend on when one ends.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, gradients: Tensor) -> Future[Tensor]:
        """
        Args:
            gradients: (n,) float32 of this rank; takes the average.
        """
        if self._stream is None:
            average_in_bfloat16(gradients)
            return _done(gradients, [])
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            average_in_bfloat16(gradients)
            gradients.record_stream(self._stream)
            return _done(gradients, [self._device])  # notes the stream, for which DDP then waits


def _done(gradients: Tensor, devices: list[torch.device]) -> Future[Tensor]:
    future: Future[Tensor] = Future(devices=[*devices])
    future.set_result(gradients)
    return future


def average_in_bfloat16(gradients: Tensor) -> None:
    """Replace (n,) float32 by the average over the ranks, on the current stream."""
    size, num = dist.get_world_size(), gradients.numel()
    part = -(-num // size)
    mine = torch.zeros(size * part, dtype=torch.bfloat16, device=gradients.device)
    mine[:num] = gradients
    received = torch.empty_like(mine)
    # As bytes: gloo does not know bf16 in every exchange, and nothing is added up on the way.
    dist.all_to_all_single(received.view(torch.uint8), mine.view(torch.uint8))
    average = received.view(size, part).sum(dim=0, dtype=torch.float32) / size
    all_gather_single(mine.view(torch.uint8), average.bfloat16().view(torch.uint8))
    gradients.copy_(mine[:num])
