"""One residual network for all four backbones: visual R3D-50 and R3D-18, motion R2D-50 and R2D-18 (paper Table 1)."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from modist_fast.models.layers import Convolution, Stem
from modist_fast.models.norm import GroupBatchNorm

Arch = Literal["r50", "r18"]
# Temporal kernel of conv1, then of res2 to res5.
_VISUAL_KERNELS = (5, 1, 1, 3, 3)
_MOTION_KERNELS = (1, 1, 1, 1, 1)


def _conv(inputs: int, outputs: int, temporal: int, spatial: int, stride: int = 1, dilation: int = 1) -> Convolution:
    return Convolution(
        inputs,
        outputs,
        (temporal, spatial, spatial),
        stride=(1, stride, stride),
        padding=(temporal // 2, spatial // 2 * dilation, spatial // 2 * dilation),
        dilation=(1, dilation, dilation),
        bias=False,
    )


def _bottleneck(inputs: int, width: int, temporal_kernel: int, stride: int, dilation: int) -> dict[str, nn.Module]:
    """t×1² → 1×3² → 1×1², the last four times as wide; the stride is the spatial convolution's."""
    return {
        "conv_a": _conv(inputs, width, temporal_kernel, 1),
        "norm_a": GroupBatchNorm(width),
        "conv_b": _conv(width, width, 1, 3, stride, dilation),
        "norm_b": GroupBatchNorm(width),
        "conv_c": _conv(width, 4 * width, 1, 1),
        "norm_c": GroupBatchNorm(4 * width),
    }


def _basic(inputs: int, width: int, temporal_kernel: int, stride: int, dilation: int) -> dict[str, nn.Module]:
    """t×3² → 1×3²; the stride is the first convolution's."""
    return {
        "conv_a": _conv(inputs, width, temporal_kernel, 3, stride, dilation),
        "norm_a": GroupBatchNorm(width),
        "conv_b": _conv(width, width, 1, 3, dilation=dilation),
        "norm_b": GroupBatchNorm(width),
    }


@dataclass(frozen=True)
class _Architecture:
    depths: tuple[int, int, int, int]
    layers: Callable[[int, int, int, int, int], dict[str, nn.Module]]
    expansion: int


_ARCHITECTURES = {
    "r50": _Architecture(depths=(3, 4, 6, 3), layers=_bottleneck, expansion=4),
    "r18": _Architecture(depths=(2, 2, 2, 2), layers=_basic, expansion=1),
}


class Block(nn.Module):
    """A residual block: convolutions, each with its norm and ReLU; before the last ReLU the input is added."""

    def __init__(self, layers: dict[str, nn.Module], inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(OrderedDict(layers))
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=_conv(inputs, outputs, 1, 1, stride), norm=GroupBatchNorm(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        *layers, last = self.residual
        for layer in layers:
            x = layer(x, relu=True) if isinstance(layer, GroupBatchNorm) else layer(x)
        return last(x, residual=shortcut, relu=True)


class FramePool(nn.Module):
    """1×3² max pooling, stride 2 in space: 2D pooling of each frame, on views where channels are last.

    On a CPU 3D pooling has no kernel for channels last, and autocast would have it, and all of res2, in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T, H / 2, W / 2)."""
        frames = x.transpose(1, 2)
        return self.pool(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class ResNet(nn.Module):
    """Clips in, pooled features out.

    Args:
        arch: "r50" (bottlenecks 3-4-6-3) or "r18" (basic blocks 2-2-2-2).
        in_channels: 3 for RGB, 1 for motion maps.
        width: channels of conv1; res2 to res5 have 1, 2, 4 and 8 times as many.
        temporal_kernels: of conv1 and of res2 to res5.
        dilation: of every spatial convolution of res5, its first block's too. Above 1, res5 has stride 1, so that the
            feature map is twice as high and wide (detection). The weights have the same shapes either way.
    """

    def __init__(
        self, arch: Arch, in_channels: int, width: int, temporal_kernels: tuple[int, ...], dilation: int = 1
    ) -> None:
        super().__init__()
        stem_kernel, *stage_kernels = temporal_kernels
        self.stem = Stem(
            in_channels, width, (stem_kernel, 7, 7), stride=2, padding=(stem_kernel // 2, 3, 3), bias=False
        )
        self.stem_norm = GroupBatchNorm(width)
        self.pool = FramePool()
        design = _ARCHITECTURES[arch]
        channels = width
        stages = OrderedDict()
        for index, (depth, kernel) in enumerate(zip(design.depths, stage_kernels, strict=True)):
            blocks = []
            for position in range(depth):
                stage_width, stride = width * 2**index, 2 if index > 0 and position == 0 else 1
                spread = dilation if index == len(design.depths) - 1 else 1
                if spread > 1:
                    stride = 1
                outputs = stage_width * design.expansion
                layers = design.layers(channels, stage_width, kernel, stride, spread)
                blocks.append(Block(layers, channels, outputs, stride))
                channels = outputs
            stages[f"res{index + 2}"] = nn.Sequential(*blocks)
        self.stages = nn.Sequential(stages)
        self.num_features = channels
        self._initialize()

    def _initialize(self) -> None:
        """Kaiming fan-out, and residual branches that begin as nothing (PySlowFast's ZERO_INIT_FINAL_BN)."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.scale_residuals(0.0)

    def scale_residuals(self, scale: float) -> None:
        """Set the weights of the last norm of each residual branch: at 0 the branch is nothing, at 1 it is whole."""
        for module in self.modules():
            if isinstance(module, Block):
                last = module.residual[-1]
                assert isinstance(last, GroupBatchNorm)
                nn.init.constant_(last.weight, scale)

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T / 2, H / 32, W / 32), or H / 16 and W / 16 with dilation: the output of res5."""
        return self.stages(self.pool(self.stem_norm(self.stem(x), relu=True)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D): features averaged over time and space."""
        return self.feature_map(x).mean(dim=(2, 3, 4))


def build_visual(arch: Arch, width: int = 64, dilation: int = 1) -> ResNet:
    """The visual pathway: (B, 3, T, H, W) to (B, 2048 or 512 at width 64)."""
    return ResNet(arch, in_channels=3, width=width, temporal_kernels=_VISUAL_KERNELS, dilation=dilation)


def build_motion(arch: Arch, width: int = 8) -> ResNet:
    """The motion pathway: (B, 1, T, H, W) to (B, 256 or 64 at width 8), no convolution over time.

    The paper replicates the one-channel map three times. A convolution of three equal channels is one of the summed
    kernels on one channel, so that is what conv1 holds. It is initialized, and learns, as any other layer: the sum of
    the three kernels would begin √3 times as large and take steps three times as large, and the batch norm behind it
    makes just that the same as this.
    """
    return ResNet(arch, in_channels=1, width=width, temporal_kernels=_MOTION_KERNELS)
