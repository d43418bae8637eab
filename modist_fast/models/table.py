"""The visual backbones, by the names that cards and options have for them."""

from collections.abc import Callable
from functools import partial

from modist_fast.models.foreign import build_inflated, build_slow_r50
from modist_fast.models.resnet import VISUAL_KERNELS, ResNet

BACKBONES: dict[str, Callable[[int], ResNet]] = {
    "r50": partial(ResNet, "r50", 3, temporal_kernels=VISUAL_KERNELS),
    "r18": partial(ResNet, "r18", 3, temporal_kernels=VISUAL_KERNELS),
    "slow-r50": build_slow_r50,
    "imagenet-r50": partial(build_inflated, "r50"),
    "imagenet-r18": partial(build_inflated, "r18"),
}


def build_visual(arch: str, width: int = 64) -> ResNet:
    """The visual pathway: (B, 3, T, H, W) to (B, 2048 or 512 at width 64)."""
    return BACKBONES[arch](width)
