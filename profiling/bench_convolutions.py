"""Each convolution of a backbone as torch runs it, against the same arithmetic folded into fewer dimensions.

    python profiling/bench_convolutions.py --arch r50 --batch 2 --crop 112

A 1×k² convolution is one of frames, k² in 2D; a 1×1² one is a matrix product; a t×1² one is a t×1 convolution of the
frames' pixels. With channels last all of these are views. Forward and backward, bf16; times in turns, medians.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from modist_fast.commands.cli import run_cli
from modist_fast.models import build_visual
from modist_fast.models.resnet import Arch
from modist_profiling.frame import interleave, percentile


@dataclass(frozen=True)
class Options:
    """Benchmark of convolutions."""

    arch: Arch = "r50"
    batch: int = 2
    crop: int = 112
    rounds: int = 7
    seconds: float = 10.0
    """Of each convolution, at most; three turns at least."""
    threads: int = 1


class Shape(NamedTuple):
    """A convolution, and what goes in."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]


def as_it_is(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return functional.conv3d(x, weight, None, shape.stride, shape.padding)


def of_frames(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    frames = x.transpose(1, 2)
    out = functional.conv2d(frames.flatten(0, 1), weight.squeeze(2), None, shape.stride[1:], shape.padding[1:])
    return out.unflatten(0, frames.shape[:2]).transpose(1, 2)


def as_product(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return functional.linear(x.permute(0, 2, 3, 4, 1), weight.flatten(1)).permute(0, 4, 1, 2, 3)


def over_time(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    out = functional.conv2d(x.flatten(3), weight.squeeze(4), None, shape.stride[:2], shape.padding[:2])
    return out.unflatten(3, x.shape[3:])


def ways(shape: Shape) -> dict[str, Callable[[Tensor, Tensor, Shape], Tensor]]:
    """The ways in which a convolution can be run, by name; the first is torch's own."""
    found = {"3D": as_it_is}
    temporal, *spatial = shape.weight[2:]
    if temporal == 1 and shape.stride[0] == 1:
        found["frames in 2D"] = of_frames
    if shape.weight[2:] == (1, 1, 1) and shape.stride == (1, 1, 1):
        found["product"] = as_product
    if temporal > 1 and spatial == [1, 1] and shape.stride == (1, 1, 1):
        found["time in 2D"] = over_time
    return found


def convolutions(arch: Arch, batch: int, crop: int) -> Counter[Shape]:
    """The convolutions of the visual backbone on 8 frames, and how many there are of each."""
    found: Counter[Shape] = Counter()

    def note(module: nn.Conv3d, inputs: tuple[Tensor], output: Tensor) -> None:
        padding = module.padding
        assert isinstance(padding, tuple)
        found[Shape(tuple(inputs[0].shape), tuple(module.weight.shape), module.stride, padding)] += 1

    with torch.device("meta"), torch.no_grad():
        net = build_visual(arch)
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.register_forward_hook(note)  # pyright: ignore[reportArgumentType]
        net(torch.empty(batch, 3, 8, crop, crop))
    return found


def runner(way: Callable[[Tensor, Tensor, Shape], Tensor], shape: Shape, device: torch.device) -> Callable[[], Tensor]:
    """A call that runs the convolution forward and backward; returns the gradient of its weight."""
    torch.manual_seed(0)
    layout = torch.channels_last_3d
    x = torch.randn(shape.input, dtype=torch.bfloat16, device=device).contiguous(memory_format=layout)
    weight = torch.randn(shape.weight, dtype=torch.bfloat16, device=device).contiguous(memory_format=layout)
    weight.requires_grad_()
    x.requires_grad_(shape.input[1] > 3)  # nothing asks for a gradient of the clips

    def run() -> Tensor:
        x.grad = weight.grad = None
        out = way(x, weight, shape)
        out.backward(torch.ones_like(out))
        assert weight.grad is not None
        return weight.grad

    return run


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{'':4}{'input (C, T, H, W)':24}{'weight':26}{'stride':12}median ms, forward and backward")
    total = {"3D": 0.0, "frames in 2D": 0.0, "the best of each": 0.0}
    for shape, number in convolutions(options.arch, options.batch, options.crop).items():
        runs = {name: runner(way, shape, device) for name, way in ways(shape).items()}
        times = interleave(runs, options.rounds, options.seconds, device)
        median = {name: percentile(values, 0.5) for name, values in times.items()}
        total["3D"] += number * median["3D"]
        total["frames in 2D"] += number * median.get("frames in 2D", median["3D"])
        total["the best of each"] += number * min(median.values())
        cells = ", ".join(f"{name} {value:.2f}" for name, value in median.items())
        print(f"{number:2}× {shape.input[1:]!s:24}{shape.weight!s:26}{shape.stride!s:12}{cells}", flush=True)
    print("all convolutions: " + ", ".join(f"{name} {value:.0f} ms" for name, value in total.items()))


if __name__ == "__main__":
    run_cli(main)
