"""The memory banks: ring buffers of momentum keys with the video each key came from (paper section 3.1)."""

import torch
from torch import Tensor, nn

EMPTY = -1  # the video id of a slot that no key has reached yet


class KeyBank(nn.Module):
    """The banks of all modalities, which always advance together.

    Attributes (all saved in a checkpoint):
        keys: (M, N, C) float16, unit vectors; M = 2 (visual, motion), or 1 for RGB-only. fp16 because unit
            vectors fit its range and its 11-bit significand beats bf16's 8 at the same bytes.
        video_ids: (N,) int32, `EMPTY` where nothing was stored yet. One list serves both modalities: their
            keys are stored in pairs, from the same video, at the same moment.
        pointer: () int64, the slot that the next key takes.
    """

    keys: Tensor
    video_ids: Tensor
    pointer: Tensor

    def __init__(self, num_modalities: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(num_modalities, size, dim, dtype=torch.float16))
        self.register_buffer("video_ids", torch.full((size,), EMPTY, dtype=torch.int32))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, video_ids: Tensor, left_out: Tensor | None = None) -> None:
        """Store a batch over the oldest slots, wrapping around the end.

        Args:
            keys: (M, B, C) unit vectors, B <= N.
            video_ids: (B,) integers >= 0.
            left_out: () 1 where the step is left out, and the banks stay as they are.
        """
        size = self.video_ids.shape[0]
        num = video_ids.shape[0]
        assert num <= size, "the configuration refuses banks smaller than the batch"
        slots = (self.pointer + torch.arange(num, device=self.pointer.device)) % size
        keys, video_ids, pointer = keys.to(self.keys.dtype), video_ids.to(self.video_ids.dtype), self.pointer + num
        if left_out is not None:
            keys = torch.where(left_out > 0, self.keys[:, slots], keys)
            video_ids = torch.where(left_out > 0, self.video_ids[slots], video_ids)
            pointer = torch.where(left_out > 0, self.pointer, pointer)
        self.keys[:, slots] = keys
        self.video_ids[slots] = video_ids
        self.pointer.copy_(pointer % size)
