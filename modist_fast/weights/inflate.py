"""Nets of pictures to nets of clips, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modist_fast.host.choices import Inflation


def inflate(state: Mapping[str, Tensor], taps: Mapping[str, int], how: Inflation) -> dict[str, Tensor]:
    """2D convolutions as 3D ones that give of a still video what they give of its picture.

    Args:
        state: tensors of a net of pictures; those of convolutions are (O, I, k, k).
        taps: length in time of each convolution, by the same names.
        how: mean: each tap has the weights, divided by their number (Carreau & Zisserman, I3D; PySlowFast does it so).
            Frames at the two ends, where zeros are padded, get less. centre: the middle tap has them, others are zero;
            then each frame gets what the net of pictures gives, the ends too.

    Returns:
        The convolutions (O, I, t, k, k); other tensors as they are.
    """
    found = {}
    for name, tensor in state.items():
        if tensor.dim() != 4 or name not in taps:
            found[name] = tensor
        elif how == "mean":
            found[name] = tensor.unsqueeze(2).repeat(1, 1, taps[name], 1, 1) / taps[name]
        else:
            found[name] = torch.zeros(*tensor.shape[:2], taps[name], *tensor.shape[2:], dtype=tensor.dtype)
            found[name][:, :, taps[name] // 2] = tensor
    return found


def deflate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """3D convolutions as 2D ones: the sum over the taps is what they do to a still video, away from its ends."""
    return {name: tensor.sum(dim=2) if tensor.dim() == 5 else tensor for name, tensor in state.items()}
