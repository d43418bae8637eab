"""The same layer in two forms, timed by graph replay: which one the nets should be made of.

    python -m modist_profiling.gpu_check.layers --json layers.json

Every distinct convolution, batch norm and pooling of both backbones of a preset, at the shapes of one group: in 3D,
and in 4D with the frames folded into the batch (1×k×k) or the rows into one axis (t×1×1). Both see the same numbers;
how far their results lie apart stands beside the times.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.commands.cli import parse_options
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.pathways import Pathways
from modist_fast.presets import find_preset
from modist_kernels import batch_norm
from modist_pipelines.ranges import COUNT, ranged
from modist_profiling.frame.device_time import median_milliseconds
from modist_profiling.frame.report import conditions, find_device, write_json


@dataclass(frozen=True)
class Options:
    """Time the layers of the nets in two forms."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    preset: str = "modist-r50"
    batch: int = ranged(8, COUNT)
    crop: int = ranged(224, COUNT)
    num: int | None = ranged(None, COUNT)
    """Only so many distinct layers of each kind."""
    json: Path | None = None


@dataclass(frozen=True)
class Shape:
    """A layer as it is met in a net."""

    net: str
    kind: str
    input: tuple[int, ...]
    weight: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()


def shapes_of(options: Options) -> Counter[Shape]:
    """The distinct layers of both backbones, and how often each is met in a forward pass."""
    recipe = find_preset(options.preset)(Path(), Path())
    found: Counter[Shape] = Counter()

    def see(name: str, module: nn.Module, x: Tensor) -> None:
        net = name.split(".")[0]
        if isinstance(module, nn.Conv3d):
            place = (tuple(module.weight.shape), module.stride, module.padding)
            found[Shape(net, "conv", tuple(x.shape), *place)] += 1  # pyright: ignore[reportArgumentType]
        elif isinstance(module, GroupBatchNorm):
            found[Shape(net, "norm", tuple(x.shape))] += 1

    with torch.device("meta"):
        nets = Pathways(recipe.model, recipe.motion_channels)
        for name, module in nets.named_modules():
            module.register_forward_pre_hook(lambda m, x, name=name: see(name, m, x[0]))
        size, clips = options.crop, recipe.clips
        nets(
            torch.empty(options.batch, 3, clips.visual.num_frames, size, size),
            torch.empty(options.batch, recipe.motion_channels, clips.motion.num_frames, size, size),
        )
    return found


def frames_of(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B T, C, H, W); a view in channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def clips_of(frames: Tensor, batch: int) -> Tensor:
    """(B T, C, H, W) to (B, C, T, H, W)."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def convolve_in_2d(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor | None:
    """The convolution on views in 4D, or None where it is neither 1×k×k nor t×1×1."""
    _, _, time, height, width = weight.shape
    if time == 1 and stride[0] == 1:
        folded = weight[:, :, 0]
        return clips_of(F.conv2d(frames_of(x), folded, None, stride[1:], padding[1:]), len(x))
    if height == width == 1 and stride == (1, 1, 1):
        rows = x.flatten(3)  # (B, C, T, H W)
        return F.conv2d(rows, weight[:, :, :, 0], None, 1, (padding[0], 0)).unflatten(3, x.shape[3:])
    return None


def forms(shape: Shape, device: torch.device) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Name to a call that runs the layer forward and backward in bf16 and gives output and gradients."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        drawn = torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)
        return drawn.to(memory_format=torch.channels_last_3d) if len(size) == 5 else drawn

    x = draw(*shape.input).requires_grad_(shape.input[1] > 3)  # clips get no gradient

    def trained(forward: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        with torch.no_grad():
            torch.manual_seed(1)  # the same for both forms
            upstream = torch.randn_like(forward())

        def call() -> tuple[Tensor, ...]:
            output = forward()
            return (output, *torch.autograd.grad(output, leaves, upstream))

        return call

    if shape.kind == "conv":
        weight = draw(*shape.weight).requires_grad_()
        stride, padding = shape.stride, shape.padding
        leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]
        calls = {"3D": trained(lambda: F.conv3d(x, weight, None, stride, padding), *leaves)}  # pyright: ignore
        if convolve_in_2d(x, weight, stride, padding) is not None:
            calls["4D"] = trained(lambda: convolve_in_2d(x, weight, stride, padding), *leaves)  # pyright: ignore
        return calls
    scale = torch.rand(shape.input[1], device=device, requires_grad=True)
    bias = torch.zeros(shape.input[1], device=device, requires_grad=True)
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)

    def norm(form: Tensor) -> Tensor:
        return F.batch_norm(form, mean.detach(), variance.detach(), scale, bias, True, 0.1, 1e-5)

    def fused() -> Tensor:
        frames = frames_of(x)
        statistics = (mean.detach(), variance.detach())
        return clips_of(batch_norm(frames, scale, bias, *statistics, tickets=tickets, relu=True), len(x))

    tickets = torch.zeros(4096, dtype=torch.int32, device=device)
    return {
        "3D": trained(lambda: norm(x), x, scale, bias),
        "4D": trained(lambda: clips_of(norm(frames_of(x)), len(x)), x, scale, bias),
        "fused, with ReLU": trained(fused, x, scale, bias),
    }


def measure(shape: Shape, count: int, device: torch.device) -> dict[str, Any]:
    """One row: milliseconds of each form, and the largest difference of their results, relative to the largest."""
    row: dict[str, Any] = {**asdict(shape), "count": count}
    results = {}
    for name, call in forms(shape, device).items():
        try:
            results[name] = [part.detach().float() for part in call()]
            row[name] = median_milliseconds(call, device)
        except RuntimeError as error:  # one form that this cuDNN refuses is a finding, not the end
            row[f"{name}_error"] = str(error)[:300]
    if "4D" in results:
        pairs = zip(results["3D"], results["4D"], strict=True)
        row["difference"] = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-9)) for a, b in pairs)
    return row


def main() -> None:

    options = parse_options(Options, description=__doc__)
    device = find_device(options.device)
    torch.backends.cudnn.benchmark = True
    rows = []
    kinds: Counter[str] = Counter()
    for shape, count in shapes_of(options).items():
        kinds[shape.kind] += 1
        if options.num is not None and kinds[shape.kind] > options.num:
            continue
        rows.append(row := measure(shape, count, device))
        times = " ".join(f"{name} {row[name]:.3f} ms" for name in ("3D", "4D", "fused, with ReLU") if name in row)
        wrong = " ".join(f"{row[key]}" for key in row if key.endswith("_error"))
        print(
            f"{count:3d} × {shape.net} {shape.kind} {shape.input} {shape.weight} {times} "
            f"apart {row.get('difference', 0):.1e} {wrong}",
            flush=True,
        )
    ratios = {}
    for kind in ("conv", "norm"):
        for net in ("visual", "motion"):
            both = [r for r in rows if r["kind"] == kind and r["net"] == net and "3D" in r and "4D" in r]
            total = {form: sum(r["count"] * r[form] for r in both) for form in ("3D", "4D")}
            if both:
                ratios[f"{kind}_{net}_3d_over_4d"] = total["3D"] / total["4D"]
                print(f"{net} {kind}: 3D {total['3D']:.2f} ms, 4D {total['4D']:.2f} ms a group, where both exist")
    if options.json:
        write_json(options.json, rows, ratios, conditions(device))


if __name__ == "__main__":
    main()
