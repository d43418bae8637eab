"""Backbones of other libraries beside this project's, forward and backward, for bench_step.py."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modist_fast.models import build_visual

Format = tuple[torch.dtype, torch.memory_format]
FP32: Format = (torch.float32, torch.contiguous_format)
FP32_LAST: Format = (torch.float32, torch.channels_last_3d)
BF16: Format = (torch.bfloat16, torch.contiguous_format)
BF16_LAST: Format = (torch.bfloat16, torch.channels_last_3d)


@dataclass(frozen=True)
class Backbone:
    """A net under measurement, and how it is run."""

    table: str
    build: Callable[[], nn.Module]
    """Clips (B, 3, T, H, W) to features (B, D)."""
    format: Format
    needs: str = ""
    """A module that is not one of this project's requirements."""

    @property
    def is_installed(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def slow_r50() -> nn.Module:
    """PyTorchVideo's, without its classifier."""
    from pytorchvideo.models.hub.resnet import slow_r50 as build  # pyright: ignore[reportMissingImports]

    net: Any = build()
    net.blocks[-1] = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return net


def r3d_18() -> nn.Module:
    """torchvision's, without its classifier: 3×3×3 convolutions throughout, so more arithmetic than R3D-18 here."""
    from torchvision.models.video import r3d_18 as build

    net = build()
    net.add_module("fc", nn.Identity())
    return net


_OURS_50, _OURS_18 = partial(build_visual, "r50"), partial(build_visual, "r18")
BACKBONES = {
    "pytorchvideo slow_r50, fp32": Backbone("R3D-50", slow_r50, FP32, "pytorchvideo"),
    "pytorchvideo slow_r50, bf16": Backbone("R3D-50", slow_r50, BF16, "pytorchvideo"),
    "pytorchvideo slow_r50, bf16, channels last": Backbone("R3D-50", slow_r50, BF16_LAST, "pytorchvideo"),
    "modist R3D-50, fp32": Backbone("R3D-50", _OURS_50, FP32_LAST),
    "modist R3D-50, bf16": Backbone("R3D-50", _OURS_50, BF16_LAST),
    "torchvision r3d_18, fp32": Backbone("R3D-18", r3d_18, FP32),
    "torchvision r3d_18, bf16": Backbone("R3D-18", r3d_18, BF16),
    "modist R3D-18, fp32": Backbone("R3D-18", _OURS_18, FP32_LAST),
    "modist R3D-18, bf16": Backbone("R3D-18", _OURS_18, BF16_LAST),
}
"""Peers as their users run them, in the default memory format, and once in ours. Their first convolution has no
temporal stride, so they do twice the arithmetic of the paper's net and more: bench_step.py shows it."""


def prepared(backbone: Backbone, clips: Tensor) -> Callable[[], None]:
    """A call that runs the backbone forward and backward on `clips` (B, 3, T, H, W), as it would be trained."""
    dtype, layout = backbone.format
    torch.manual_seed(0)
    net = backbone.build().to(clips.device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
    clips = clips.contiguous(memory_format=layout)

    def run() -> None:
        with torch.autocast(clips.device.type, dtype, enabled=dtype != torch.float32):
            features = net(clips)
        features.float().square().mean().backward()
        net.zero_grad()

    return run
