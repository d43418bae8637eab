"""Grad-CAM on the output of the last convolution stage (Selvaraju et al., arXiv:1610.02391), over time and space."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.errors import ConfigError
from modist_fast.models import ResNet

_STAGES_OF_STRIDE = {32: (), 16: ("res5",), 8: ("res4", "res5")}


def grad_cam(net: ResNet, head: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
    """How much each place of res5 speaks for a class.

    The channels of the feature map are weighted by the gradient of the class's logit, averaged over time and space;
    what speaks against the class is cut off. The backbone is frozen, so the gradient need not pass through it.

    Args:
        net: in eval mode.
        head: pooled features (B, D) to logits (B, K), in eval mode.
        clips: (B, 3, T, H, W).
        classes: (B,) int64, the class whose logit is explained.

    Returns:
        (B, T / 2, H / 32, W / 32) float32, not negative. All zero where no place speaks for the class.
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


def with_output_stride(net: ResNet, stride: int) -> ResNet:
    """A copy of a backbone whose res5 has an output every `stride` pixels instead of every 32.

    The later stages lose their spatial stride and their convolutions are dilated instead ("à trous", Chen et al.,
    arXiv:1606.00915), with the weights they have. Every output of the original is then one of the copy's, at the same
    place; those between come from the same function of clips moved by less than its stride. It makes the maps of
    small clips fine enough to look at: 56² pixels give 2 × 2 outputs at 32, 7 × 7 at 8.

    Raises:
        ConfigError: a stride that cannot be had.
    """
    if stride not in _STAGES_OF_STRIDE:
        raise ConfigError(f"--output-stride {stride}: it is one of {', '.join(map(str, _STAGES_OF_STRIDE))}.")
    net = copy.deepcopy(net)
    dilation = 1
    for name in _STAGES_OF_STRIDE[stride]:
        for module in net.stages.get_submodule(name).modules():
            if not isinstance(module, nn.Conv3d):
                continue
            # The strided convolution itself reads what it read before; all behind it live on the finer grid.
            inputs = dilation
            if module.stride[1] == 2:
                module.stride = (1, 1, 1)
                if module.kernel_size[1] > 1:
                    dilation *= 2
            time, side, _ = (size // 2 for size in module.kernel_size)
            module.dilation = (1, inputs, inputs)
            module.padding = (time, side * inputs, side * inputs)
    return net
