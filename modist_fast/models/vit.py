"""A plain vision transformer on tubelets (Dosovitskiy et al., arXiv:2010.11929; tubelets: arXiv:2103.15691)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.models.backbone import Backbone
from modist_fast.models.layers import Convolution

_TUBELET = (2, 16, 16)  # frames, height, width
_REFERENCE_GRID = (4, 14, 14)  # of the paper's clip, 8 × 224²
_DEPTH, _HEADS = 12, 6  # of ViT-S


class Tubelets(nn.Module):
    """A token for each 2×16² pixels, and where it is.

    The positions are learned for the grid of the paper's clip. Clips of other lengths and sides take them from between,
    each at its own place in the clip: the same weights serve any of them.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.project = Convolution(in_channels, dim, _TUBELET, stride=_TUBELET)
        self.positions = nn.Parameter(torch.empty(1, dim, *_REFERENCE_GRID))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T / 2, H / 16, W / 16)."""
        tokens = self.project(x)
        grid = tokens.shape[2:]
        if grid == self.positions.shape[2:]:
            return tokens + self.positions
        return tokens + F.interpolate(self.positions, grid, mode="trilinear", align_corners=False)


class VisionTransformer(Backbone):
    """ViT-S/16: 12 blocks of torch's own, norms first, no class token; the features are the mean of the last tokens.

    Args:
        in_channels: 3 for RGB.
        width: dimensions of each of the 6 heads; 64 is ViT-S, of 384 dimensions.
    """

    output_stride = _TUBELET[1]
    clip_unit = (_TUBELET[0], _TUBELET[1])

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.num_features = dim = _HEADS * width
        self.stem = Tubelets(in_channels, dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, _HEADS, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_DEPTH)
        )
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # as in MoCo v3; torch's attention begins so by itself
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The tubelets, then the blocks; the last has the norm behind it."""
        blocks: dict[str, list[nn.Module]] = {f"block{num}": [block] for num, block in enumerate(self.blocks, 1)}
        blocks[f"block{_DEPTH}"].append(self.norm)
        return {"stem": [self.stem], **blocks}

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T / 2, H / 16, W / 16): the last tokens, each at its place.

        Raises:
            ConfigError: 2 does not divide T, or 16 not H and W.
        """
        for side in x.shape[3:]:
            self.check_clip(x.shape[2], side)
        grid = self.stem(x)
        tokens = grid.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).transpose(1, 2).unflatten(2, grid.shape[2:])


def vit_s16(width: int = 64) -> VisionTransformer:
    """ViT-S/16 at width 64: (B, 3, T, H, W) to (B, 384)."""
    return VisionTransformer(3, width)
