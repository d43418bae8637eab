"""Convolutions and linear layers whose weights may come in another format, and the first convolution's fast form."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ALIGNED = 8  # channels that tensor cores read at a time


class Convolution(nn.Conv3d):
    """torch's, computing with `cast_weight` where that is set; see `CastWeights`."""

    cast_weight: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight if self.cast_weight is None else self.cast_weight
        return self._conv_forward(input, weight, self.bias)


class Stem(Convolution):
    """The first convolution. On a GPU its taps in time become channels of a convolution in 2D.

    Three channels leave most of a tensor core idle: on an H200 the stem was a fifth of the step (docs/gpu.md).
    """

    by_frames: bool | None = None
    """In 2D, wherever the clips lie; None: on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        by_frames = input.is_cuda if self.by_frames is None else self.by_frames
        if not by_frames or self.kernel_size[0] == 1 or input.requires_grad:
            return super().forward(input)
        weight = self.weight if self.cast_weight is None else self.cast_weight
        return convolve_by_frames(input, weight, self.stride, self.padding)  # pyright: ignore[reportArgumentType]


def convolve_by_frames(
    x: Tensor, weight: Tensor, stride: tuple[int, int, int], padding: tuple[int, int, int]
) -> Tensor:
    """A 3D convolution as one in 2D of frames that hold all the frames of a window as channels.

    Args:
        x: (B, C, T, H, W) clips, which get no gradient.
        weight: (D, C, K, H', W').
        stride, padding: in time, height and width.

    Returns:
        (B, D, T', H'', W''), channels last.
    """
    channels, taps = weight.shape[1:3]
    padded = F.pad(x.detach().permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, padding[0], padding[0]))
    windows = padded.unfold(1, taps, stride[0])  # (B, T', H, W, C, K), a view
    used = channels * taps
    width = -(-used // _ALIGNED) * _ALIGNED
    frames = x.new_zeros(*windows.shape[:4], width)
    frames[..., :used].unflatten(-1, (channels, taps)).copy_(windows)
    folded = F.pad(weight.flatten(1, 2).permute(0, 2, 3, 1), (0, width - used)).permute(0, 3, 1, 2)
    output = F.conv2d(frames.flatten(0, 1).permute(0, 3, 1, 2), folded, None, stride[1:], padding[1:])
    return output.unflatten(0, windows.shape[:2]).transpose(1, 2)


def lay_gradients_as_weights(net: nn.Module) -> None:
    """For DDP: the gradients of weights that have axes of length 1 get the strides of their weights.

    Libraries fill such strides in as they like. DDP takes another choice for another layout, says so, and copies each
    of these gradients into its bucket.
    """

    def restrided(weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
        strides, long = weight.stride(), [axis for axis, length in enumerate(weight.shape) if length > 1]

        def hook(grad: Tensor) -> Tensor:
            same = all(grad.stride(axis) == strides[axis] for axis in long)
            return grad.as_strided(grad.shape, strides) if same else grad

        return hook

    for weight in net.parameters():
        if weight.requires_grad and weight.dim() == 5 and 1 in weight.shape:
            weight.register_hook(restrided(weight))


class Projection(nn.Linear):
    """torch's linear layer, computing with `cast_weight` where that is set."""

    cast_weight: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight if self.cast_weight is None else self.cast_weight, self.bias)


class _Cast(torch.autograd.Function):
    """Tensors in another format, and their gradients back, each way in as few launches as torch has for lists."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(_copies(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (None, *_copies(grads, torch.float32))


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]  # laid out so: else torch goes one by one
    torch._foreach_copy_(copies, list(tensors))
    return copies


class CastWeights:
    """Gives the convolutions and linear layers of a net their weights in the format of the autocast around it.

    Autocast does it layer by layer, a launch each way for each of a hundred layers. Here a part of the net, such as a
    stage, is one list: gradients still come part by part, so that their messages travel while backward goes on.

    Args:
        net: its direct children are the parts, and of a backbone its stages.
    """

    def __init__(self, net: nn.Module) -> None:
        by_part: dict[str, list[Convolution | Projection]] = {}
        for name, module in net.named_modules():
            if isinstance(module, Convolution | Projection):
                by_part.setdefault(".".join(name.split(".")[:3]), []).append(module)
        self._parts = list(by_part.values())

    def set(self, dtype: torch.dtype) -> None:
        """Cast all weights as they are now, with a way back for gradients where they are recorded."""
        for part in self._parts:
            casts = _Cast.apply(dtype, *(module.weight for module in part))
            for module, weight in zip(part, casts, strict=True):  # pyright: ignore[reportArgumentType]
                module.cast_weight = weight

    def update(self, dtype: torch.dtype) -> None:
        """Cast all weights into the tensors of the last time, which stay where they are."""
        modules = [module for part in self._parts for module in part]
        casts = []
        for module in modules:
            if module.cast_weight is None:
                module.cast_weight = torch.empty_like(module.weight, dtype=dtype, requires_grad=False)
            casts.append(module.cast_weight)
        torch._foreach_copy_(casts, [module.weight.detach() for module in modules])

    def clear(self) -> None:
        """Back to the weights themselves."""
        for part in self._parts:
            for module in part:
                module.cast_weight = None
