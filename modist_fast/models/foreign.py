"""Visual backbones as other libraries train them, so that their weights can be used here."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modist_fast.models.resnet import VISUAL_KERNELS, ResNet

MEAN, STD = 0.45, 0.225  # of the clips that the data plane makes, all channels alike
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Colours(nn.Module):
    """From our normalization of a clip, one mean and deviation for all channels, to that which a net was trained with.

    Before the first convolution, not in its weights: what it pads with is zero in the net's own numbers.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (STD / own_std).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("shift", ((MEAN - own_mean) / own_std).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) to the same."""
        return clips * self.scale + self.shift


def slow_r50(width: int = 64) -> ResNet:
    """Slow R50 as PySlowFast and PyTorchVideo release it: conv1 is 1×7² and takes every frame."""
    return ResNet("r50", in_channels=3, width=width, temporal_kernels=(1, 1, 1, 3, 3), stem_stride=1)


def inflated_resnet(arch: str, width: int = 64) -> ResNet:
    """R3D-50 or R3D-18 for the weights of a net of ImageNet's pictures, with the colours as that net wants them."""
    colours = Colours(IMAGENET_MEAN, IMAGENET_STD)
    return ResNet(arch, in_channels=3, width=width, temporal_kernels=VISUAL_KERNELS, colours=colours)
