"""Grad-CAM on the last feature map (Selvaraju et al., arXiv:1610.02391), over time and space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.models import Backbone


def grad_cam(net: Backbone, head: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
    """How much each place of the feature map speaks for a class.

    The channels of the feature map are weighted by the gradient of the class's logit, averaged over time and space;
    what speaks against the class is cut off. The backbone is frozen, so the gradient need not pass through it.

    Args:
        net: in eval mode.
        head: pooled features (B, D) to logits (B, K), in eval mode.
        clips: (B, 3, T, H, W).
        classes: (B,) int64, the class whose logit is explained.

    Returns:
        (B, t, h, w) float32 as the feature map, not negative. All zero where no place speaks for the class.
    """
    with torch.no_grad():
        features = net.feature_map(clips).float()
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(features.mean(dim=(2, 3, 4)))
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), features)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return (weights * features).detach().sum(dim=1).relu()


def resize_cam(cam: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(B, t, h, w) to (B, T, H, W) by trilinear interpolation, which adds no negative values."""
    return F.interpolate(cam[:, None], size, mode="trilinear", align_corners=False)[:, 0]
