"""One residual network for all four backbones: visual R3D-50 and R3D-18, motion R2D-50 and R2D-18 (paper Table 1)."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.models.backbone import Backbone
from modist_fast.models.layers import Convolution, Stem
from modist_fast.models.norm import GroupBatchNorm

# Temporal kernel of conv1, then of res2 to res5.
VISUAL_KERNELS = (5, 1, 1, 3, 3)
_MOTION_KERNELS = (1, 1, 1, 1, 1)


def conv(
    inputs: int, outputs: int, temporal: int, spatial: int, stride: int = 1, temporal_stride: int = 1
) -> Convolution:
    """A convolution of temporal × spatial², padded to keep the size at stride 1, without bias."""
    return Convolution(
        inputs,
        outputs,
        (temporal, spatial, spatial),
        stride=(temporal_stride, stride, stride),
        padding=(temporal // 2, spatial // 2, spatial // 2),
        bias=False,
    )


def _bottleneck(inputs: int, width: int, temporal_kernel: int, stride: int) -> dict[str, nn.Module]:
    """t×1² → 1×3² → 1×1², the last four times as wide; the stride is the spatial convolution's."""
    return {
        "conv_a": conv(inputs, width, temporal_kernel, 1),
        "norm_a": GroupBatchNorm(width),
        "conv_b": conv(width, width, 1, 3, stride),
        "norm_b": GroupBatchNorm(width),
        "conv_c": conv(width, 4 * width, 1, 1),
        "norm_c": GroupBatchNorm(4 * width),
    }


def _basic(inputs: int, width: int, temporal_kernel: int, stride: int) -> dict[str, nn.Module]:
    """t×3² → 1×3²; the stride is the first convolution's."""
    return {
        "conv_a": conv(inputs, width, temporal_kernel, 3, stride),
        "norm_a": GroupBatchNorm(width),
        "conv_b": conv(width, width, 1, 3),
        "norm_b": GroupBatchNorm(width),
    }


@dataclass(frozen=True)
class _Architecture:
    depths: tuple[int, int, int, int]
    layers: Callable[[int, int, int, int], dict[str, nn.Module]]
    expansion: int


_ARCHITECTURES = {
    "r50": _Architecture(depths=(3, 4, 6, 3), layers=_bottleneck, expansion=4),
    "r18": _Architecture(depths=(2, 2, 2, 2), layers=_basic, expansion=1),
}


class Block(nn.Module):
    """A residual block: convolutions, each with its norm and ReLU; before the last ReLU the input is added."""

    def __init__(
        self, layers: dict[str, nn.Module], inputs: int, outputs: int, stride: int, temporal_stride: int = 1
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(OrderedDict(layers))
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=conv(inputs, outputs, 1, 1, stride, temporal_stride), norm=GroupBatchNorm(outputs))
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


class ResidualNet(Backbone):
    """A stem, then stages of residual blocks, res2 to res5.

    Args:
        stem: the first convolution, before its norm and ReLU.
        width: channels of its output.
        pool: behind these.
        stages: the blocks of each.
        num_features: channels of the last.
    """

    def __init__(
        self, stem: nn.Module, width: int, pool: nn.Module, stages: Iterable[list[Block]], num_features: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stem_norm = GroupBatchNorm(width)
        self.pool = pool
        self.stages = nn.Sequential(
            OrderedDict((f"res{index}", nn.Sequential(*blocks)) for index, blocks in enumerate(stages, 2))
        )
        self.num_features = num_features
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

    def parts(self) -> dict[str, list[nn.Module]]:
        """The stem, then the stages."""
        return {"stem": [self.stem, self.stem_norm]} | {name: [stage] for name, stage in self.stages.named_children()}

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, t, H / s, W / s), s the output stride: the output of res5."""
        return self.stages(self.pool(self.stem_norm(self.stem(x), relu=True)))

    def with_output_stride(self, stride: int) -> Self:
        """A copy whose res5 has an output every `stride` pixels: as the net is, every half or every quarter of that.

        The last stages lose their spatial stride and their convolutions are dilated instead ("à trous", Chen et al.,
        arXiv:1606.00915), with the weights they have. Every output of the original is then one of the copy's, at the
        same place; those between come from the same function of clips moved by less than its stride. It makes the maps
        of small clips fine enough to look at: 56² pixels give 2 × 2 outputs at 32, 7 × 7 at 8.

        Raises:
            ConfigError: a stride that cannot be had.
        """
        strides = [self.output_stride >> num for num in range(3)]
        if stride not in strides:
            raise ConfigError(f"--output-stride {stride}: of this net it is one of {', '.join(map(str, strides))}.")
        net = copy.deepcopy(self)
        dilation = 1
        for stage in list(net.stages.children())[len(net.stages) - strides.index(stride) :]:
            for module in stage.modules():
                if not isinstance(module, nn.Conv3d):
                    continue
                # The strided convolution itself reads what it read before; all behind it live on the finer grid.
                inputs = dilation
                if module.stride[1] == 2:
                    module.stride = (module.stride[0], 1, 1)
                    if module.kernel_size[1] > 1:
                        dilation *= 2
                time, side, _ = (size // 2 for size in module.kernel_size)
                module.dilation = (1, inputs, inputs)
                module.padding = (time, side * inputs, side * inputs)
        return net


class ResNet(ResidualNet):
    """The paper's (Table 1): the map is half as long as the clip, and 1/32 as high and wide.

    Args:
        arch: "r50" (bottlenecks 3-4-6-3) or "r18" (basic blocks 2-2-2-2).
        in_channels: 3 for RGB; what a motion map has.
        width: channels of conv1; res2 to res5 have 1, 2, 4 and 8 times as many.
        temporal_kernels: of conv1 and of res2 to res5.
        stem_stride: of conv1, in time.
        colours: a net's own normalization of R, G and B, behind ours; see `foreign.Colours`.
    """

    output_stride = 32  # pyright: ignore[reportIncompatibleVariableOverride], of a net for detection it is less
    stem: Stem  # pyright: ignore[reportIncompatibleVariableOverride], of these nets it is this

    def __init__(
        self,
        arch: str,
        in_channels: int,
        width: int,
        temporal_kernels: tuple[int, ...],
        stem_stride: int = 2,
        colours: nn.Module | None = None,
    ) -> None:
        stem_kernel, *stage_kernels = temporal_kernels
        stem = Stem(
            in_channels,
            width,
            (stem_kernel, 7, 7),
            stride=(stem_stride, 2, 2),
            padding=(stem_kernel // 2, 3, 3),
            bias=False,
        )
        design = _ARCHITECTURES[arch]
        channels = width
        stages = []
        for index, (depth, kernel) in enumerate(zip(design.depths, stage_kernels, strict=True)):
            blocks = []
            for position in range(depth):
                stage_width, stride = width * 2**index, 2 if index > 0 and position == 0 else 1
                outputs = stage_width * design.expansion
                layers = design.layers(channels, stage_width, kernel, stride)
                blocks.append(Block(layers, channels, outputs, stride))
                channels = outputs
            stages.append(blocks)
        super().__init__(stem, width, FramePool(), stages, channels)
        self.colours = colours

    def for_detection(self) -> Self:
        """A copy whose res5 has stride 1, and dilation 2 in every 3 × 3, its first block's too (SlowFast's for AVA)."""
        net = copy.deepcopy(self)
        net.output_stride = 16
        for module in net.stages[-1].modules():
            if isinstance(module, nn.Conv3d):
                time, side, _ = (size // 2 for size in module.kernel_size)
                module.stride = (module.stride[0], 1, 1)
                module.dilation, module.padding = (1, 2, 2), (time, 2 * side, 2 * side)
        return net

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T / 2, H / 32, W / 32), or (B, D, T, …) where conv1 takes every frame."""
        return super().feature_map(x if self.colours is None else self.colours(x))


def visual_resnet(arch: str, width: int = 64) -> ResNet:
    """The visual pathway: (B, 3, T, H, W) to (B, 2048 or 512 at width 64)."""
    return ResNet(arch, in_channels=3, width=width, temporal_kernels=VISUAL_KERNELS)


def motion_resnet(arch: str, width: int = 8, in_channels: int = 1) -> ResNet:
    """The motion pathway: (B, C, T, H, W) to (B, 256 or 64 at width 8), no convolution over time.

    C is what the motion input has: 1 for flow edges, which the paper replicates three times. A convolution of three
    equal channels is one of the summed kernels on one channel, so that is what conv1 holds. It is initialized, and
    learns, as any other layer: the sum of the three kernels would begin √3 times as large and take steps three times as
    large, and the batch norm behind it makes just that the same as this.
    """
    return ResNet(arch, in_channels=in_channels, width=width, temporal_kernels=_MOTION_KERNELS)
