"""Features of a crop that is larger than those of training: one at each place that training's crop could take."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


class _Mapping(Protocol):
    def feature_map(self, x: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...


def features_at_places(net: _Mapping, clips: Tensor, window: float) -> Tensor:
    """Average pooling over windows of the feature map at stride 1, and over all of time.

    Args:
        net: a backbone.
        clips: (B, 3, T, H, W)
        window: share of the map's height and width; 1 is the net's own pooling, one place.

    Returns:
        (B, P, D).
    """
    if window == 1:
        return net(clips)[:, None]
    mapped = net.feature_map(clips).mean(dim=2)
    height, width = (max(1, round(window * side)) for side in mapped.shape[-2:])
    return F.avg_pool2d(mapped, (height, width), stride=1).flatten(2).transpose(1, 2)
