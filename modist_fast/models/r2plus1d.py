"""R(2+1)D: each 3D convolution as one over space and one over time (Tran et al., arXiv:1711.11248)."""

from torch import Tensor, nn

from modist_fast.models.layers import Convolution
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import Block, ResidualNet, conv

_DEPTHS = (2, 2, 2, 2)  # of 18 layers
_STEM_CHANNELS = 45, 64  # between the two convolutions of the stem, and behind them


class FactoredStem(nn.Module):
    """1×7² of stride 2 in space, norm and ReLU, 3×1²."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        between = _STEM_CHANNELS[0] * width // _STEM_CHANNELS[1]
        self.space = Convolution(in_channels, between, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
        self.norm = GroupBatchNorm(between)
        self.time = conv(between, width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, width, T, H / 2, W / 2)."""
        return self.time(self.norm(self.space(x), relu=True))


def _factored(inputs: int, outputs: int, stride: int) -> dict[str, nn.Module]:
    """Two pairs of 1×3² and 3×1²; as many channels between them as make the weights those of 3×3² convolutions."""
    between = inputs * outputs * 27 // (inputs * 9 + outputs * 3)
    return {
        "space_a": conv(inputs, between, 1, 3, stride),
        "between_a": GroupBatchNorm(between),
        "time_a": conv(between, outputs, 3, 1, temporal_stride=stride),
        "norm_a": GroupBatchNorm(outputs),
        "space_b": conv(outputs, between, 1, 3),
        "between_b": GroupBatchNorm(between),
        "time_b": conv(between, outputs, 3, 1),
        "norm_b": GroupBatchNorm(outputs),
    }


class R2Plus1D(ResidualNet):
    """18 layers; the map is 1/8 as long as the clip, and 1/16 as high and wide.

    Args:
        in_channels: 3 for RGB.
        width: channels of res2; res3 to res5 have 2, 4 and 8 times as many.
    """

    output_stride = 16

    def __init__(self, in_channels: int, width: int) -> None:
        channels, stages = width, []
        for index, depth in enumerate(_DEPTHS):
            blocks = []
            for position in range(depth):
                outputs, stride = width * 2**index, 2 if index > 0 and position == 0 else 1
                blocks.append(Block(_factored(channels, outputs, stride), channels, outputs, stride, stride))
                channels = outputs
            stages.append(blocks)
        super().__init__(FactoredStem(in_channels, width), width, nn.Identity(), stages, channels)


def r2plus1d_18(width: int = 64) -> R2Plus1D:
    """R(2+1)D-18 at width 64, 31.3 million parameters: (B, 3, T, H, W) to (B, 512)."""
    return R2Plus1D(3, width)
