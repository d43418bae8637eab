"""Flow to edge maps: this project's pass against OpenCV, plain torch, kornia and, on a GPU, CuPy.

    modist bench edges
    modist bench edges --sweep --json edges.json --csv edges.csv --plot edges.png

The baseline is OpenCV on the CPU (magnitude, two Sobel filters, magnitude, clamp, uint8, mean), plain torch on a
GPU. All get the same float32 flow and return uint8 maps and scores.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from modist_fast.commands.cli import parse_options
from modist_fast.watch.rates import Roofline
from modist_kernels import flow_edges, flow_edges_reference
from modist_pipelines.ranges import COUNT, POSITIVE, ranged
from modist_profiling.frame.report import conditions, print_rows
from modist_profiling.kernels.traffic import counted_in_interpreter, edges_compulsory_bytes
from modist_profiling.kernels.turns import KernelOptions, KernelRow, is_usable, measure, plot_sizes

CLAMP = 10.0
SOBEL = np.array([[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]])  # of each frame of (N, H, W), across; transposed, down
TITLE = "flow edges, float32 to uint8 (error: of the map, half a level is 0.002)"
FLOPS_PER_PIXEL = 25  # two products, a sum and a root for |flow|; 10 sums, 4 products and a root for |Sobel|; scaling
Result = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Options(KernelOptions):
    """Benchmark of flow edges."""

    frames: int = ranged(32, COUNT)
    """Frames of a call: two clips of 16."""
    size: int = ranged(224, COUNT)
    """Pixels of a frame's height and width."""
    seconds: float = ranged(8.0, POSITIVE)
    """Time for each shape, beyond one call of each provider."""
    rounds: int = ranged(300, COUNT)
    """Turns of each row."""


# ---- Providers: functions of the flow, (K, 2, H, W) or (K, H, W, 2) float32, that return edge maps and scores


def opencv(flow: Tensor, layout: str) -> Result:
    edges, scores = [], []
    for frame in flow.numpy():
        u, v = cv2.split(frame) if layout == "hwc" else frame
        magnitude = cv2.magnitude(u, v)
        across = cv2.Sobel(magnitude, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
        down = cv2.Sobel(magnitude, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
        clamped = cv2.min(cv2.magnitude(across, down), CLAMP)  # pyright: ignore[reportArgumentType, reportCallIssue]
        edges.append(cv2.convertScaleAbs(clamped, alpha=255 / CLAMP))
        scores.append(cv2.mean(clamped)[0])
    return torch.from_numpy(np.stack(edges)), torch.tensor(scores)


def plain_torch(flow: Tensor, layout: str) -> Result:
    return flow_edges_reference(flow, layout=layout, clamp=CLAMP)  # pyright: ignore[reportArgumentType]


def ours(flow: Tensor, layout: str) -> Result:
    return flow_edges(flow, layout=layout, clamp=CLAMP)  # pyright: ignore[reportArgumentType]


def kornia_sobel(flow: Tensor, layout: str) -> Result:
    filters = importlib.import_module("kornia.filters")
    vectors = flow.movedim(-1, -3) if layout == "hwc" else flow
    magnitude = vectors.square().sum(1, keepdim=True).sqrt()
    gradient = filters.spatial_gradient(magnitude, normalized=False)[:, 0]
    clamped = gradient.square().sum(1).sqrt().clamp(max=CLAMP)
    return (clamped * (255 / CLAMP)).round().to(torch.uint8), clamped.mean((1, 2))


def cupy_sobel(flow: Tensor, layout: str) -> Result:
    cupy = importlib.import_module("cupy")
    ndimage = importlib.import_module("cupyx.scipy.ndimage")
    with cupy.cuda.ExternalStream(torch.cuda.current_stream(flow.device).cuda_stream):
        vectors = cupy.from_dlpack(flow.movedim(-1, -3) if layout == "hwc" else flow)
        magnitude = cupy.sqrt((vectors * vectors).sum(1))
        sobel = cupy.asarray(SOBEL, magnitude.dtype)
        # Not `ndimage.sobel`, which smooths along every other axis, that of the frames too.
        across, down = (ndimage.correlate(magnitude, one, mode="nearest") for one in (sobel, sobel.transpose(0, 2, 1)))
        clamped = cupy.minimum(cupy.sqrt(across * across + down * down), CLAMP)
        quantized = cupy.rint(clamped * (255 / CLAMP)).astype(cupy.uint8)
        return torch.from_dlpack(quantized), torch.from_dlpack(clamped.mean((1, 2)))


# ---- Report


def bench_shape(
    options: Options, frames: int, size: int, layout: str, device: torch.device, limits: Roofline
) -> list[KernelRow]:
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(frames, 2, size, size, generator=generator) * 0.7  # maps between black and clamp
    flow = (flow.movedim(1, -1) if layout == "hwc" else flow).contiguous().to(device)
    exact = flow_edges_reference(flow.double(), layout=layout, clamp=CLAMP, out_dtype=torch.float32)[0]  # pyright: ignore[reportArgumentType]
    pixels = frames * size * size
    functions: dict[str, tuple[Callable[[Tensor, str], Result], float | None, str]] = {}
    if device.type == "cpu":
        functions["OpenCV"] = (opencv, pixels * 57.0, "a frame at a time, on the CPU")
    functions["plain torch"] = (plain_torch, pixels * 65.0, "")
    for module, function, needs_gpu in (("kornia", kornia_sobel, False), ("cupy", cupy_sobel, True)):
        if is_usable(module, device, needs_gpu):
            functions[module] = (function, None, "a kernel or more for each operation")
    compulsory = edges_compulsory_bytes(frames, size, size, 4, 1)
    functions["modist flow_edges"] = (ours, compulsory, "")  # what lies between stays in the cache
    shape: dict[str, int | str] = {"frames": frames, "size": size, "layout": layout, "threads": options.threads}
    flops = pixels * FLOPS_PER_PIXEL
    common = {"shape": shape, "flops": flops, "least_ms": 1e3 * limits.seconds(compulsory, flops)}
    calls = []
    for name, (function, moved, limit) in functions.items():
        edges, _ = function(flow, layout)
        error = float((edges.double() / 255 * CLAMP - exact.double()).abs().max() / CLAMP)
        row = KernelRow(TITLE, name, bytes_moved=moved, limit=limit, gradient_error=error, **common)
        calls.append((row, partial(function, flow, layout)))
    return measure(calls, device, options.rounds, options.seconds)


def count_in_interpreter(size: int) -> tuple[float]:
    """Bytes over compulsory bytes of the Triton kernel, fp16 to uint8: of one frame, cut up as one of 32 × 16."""
    from modist_kernels.configurations import edges_configuration
    from modist_kernels.flow_edges.kernels import forward
    from modist_profiling.kernels.interpreter_guard import watch

    configuration = edges_configuration(90, 32 * 16, size, size)
    with watch() as seen:
        forward(torch.randn(1, 2, size, size).half(), "chw", 1.0, "replicate", CLAMP, 1.0, torch.uint8, configuration)
    return (seen.bytes_moved / edges_compulsory_bytes(1, size, size, 2, 1),)


def main() -> None:
    options = parse_options(Options, description=__doc__)
    cv2.setNumThreads(options.threads)
    device, limits = options.start()
    rows: list[KernelRow] = []
    ratios: dict[str, float] = {}
    for layout in ("chw", "hwc"):
        rows += bench_shape(options, options.frames, options.size, layout, device, limits)
        median = {row.name: row.median for row in rows if row.shape["layout"] == layout and row.mode != "cold L2"}
        suffix = "" if layout == "chw" else "_interleaved"
        baseline, key = (
            ("OpenCV", "cpu_speedup_vs_opencv") if device.type == "cpu" else ("plain torch", "gpu_speedup_vs_torch")
        )
        ratios[f"edges_{key}{suffix}"] = median[baseline] / median["modist flow_edges"]
    if options.count:
        [ratios["edges_traffic_vs_compulsory"]] = counted_in_interpreter(count_in_interpreter, options.size)
    if options.sweep:
        sizes = [(frames, options.size) for frames in (1, 8, 128)]
        for frames, size in (*sizes, (options.frames, 128), (options.frames, 448)):
            rows += bench_shape(options, frames, size, "chw", device, limits)
    print_rows(rows)
    options.give(rows, ratios, conditions(device, limits), partial(plot_sizes, axes=("frames", "size")))
