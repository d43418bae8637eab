"""The clips' graph against its definition in float64, and the GPU's build against the CPU's. Used by parity.py."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from modist_pipelines.clips.backends import build_decoders
from modist_pipelines.clips.decoder import feed_and_run
from modist_pipelines.clips.graph import Kind, clip_graph, graph_inputs
from modist_pipelines.clips.handover import numbered
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig, plan_clips
from modist_pipelines.store.reader import VideoInfo
from modist_profiling.frame.accuracy import Parity

SIZE, FRAMES = 112, 2
HEIGHT, WIDTH = 256, 340  # the smallest crop is larger than SIZE, so no sample lies outside of it
CONFIG = PlanConfig(ClipSpec(FRAMES, 4), ClipSpec(FRAMES, 4), SIZE, grid=4)
STRONGEST = 1.4 * 1.4  # brightness and contrast stretch a difference of gray levels by this
LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def made_up_clips(kind: Kind, num: int) -> list[PlannedClip]:
    """Planned clips of smooth pictures, as JPEGs."""
    scores = {"edges": np.ones(9, np.float32)}
    info = VideoInfo(9, WIDTH, HEIGHT, "made-up.mp4", motion_scores=scores)
    random = np.random.default_rng(0)
    clips = []
    for video in range(num):
        visual, motion = plan_clips(CONFIG, 1, 0, video, info, key=False)
        plan = visual if kind == "visual" else motion
        assert plan is not None
        noise = random.normal(size=(FRAMES, HEIGHT // 8, WIDTH // 8, 3 if kind == "visual" else 1))
        smooth = [cv2.resize((128 + 60 * frame).astype(np.float32), (WIDTH, HEIGHT)) for frame in noise]
        frames = [cv2.imencode(".jpg", frame.clip(0, 255).astype(np.uint8))[1].ravel() for frame in smooth]
        clips.append(PlannedClip(plan, frames))
    return clips


def decoded(kind: Kind, frame: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 of a JPEG, by libjpeg."""
    pixels = cv2.imdecode(frame, cv2.IMREAD_COLOR if kind == "visual" else cv2.IMREAD_GRAYSCALE)
    assert pixels is not None, "it was encoded a moment ago"
    return np.ascontiguousarray(pixels[..., ::-1]) if kind == "visual" else pixels[..., None]


def reference(kind: Kind, frame: np.ndarray, plan: ClipPlan) -> Tensor:
    """(SIZE, SIZE, C) float64: the paper's augmentation in the paper's order, one step after another."""
    options = Augmentation()
    top, left, height, width = map(int, plan.crop)
    pixels = torch.from_numpy(decoded(kind, frame)).double().permute(2, 0, 1) / 255
    crop = pixels[None, :, top : top + height, left : left + width]
    x = interpolate(crop, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=False)[0]
    if kind == "motion":
        return x.permute(1, 2, 0)
    x = x.flip(-1) if plan.flip else x
    x = plan.brightness * x
    x = plan.contrast * x + (1 - plan.contrast) * plan.brightness * options.mean
    gray = torch.einsum("c,chw->hw", LUMINANCE, x).expand_as(x)
    x = gray if plan.gray else plan.saturation * x + (1 - plan.saturation) * gray
    if plan.blur_sigma:
        x = _blurred(x, plan.blur_sigma)
    return ((x - options.mean) / options.std).permute(1, 2, 0)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = int(np.ceil(3 * sigma))
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum())[None, None]
    x = pad(x[:, None], (reach,) * 4, mode="reflect")
    return conv2d(conv2d(x, taps[..., None, :]), taps[..., None])[:, 0]


def run_graph(
    kind: Kind, clips: Sequence[PlannedClip], pixels: Literal["jpeg", "rgb"], device: torch.device
) -> np.ndarray:
    """(frames, SIZE, SIZE, C) of one run of the graph built for `device`."""
    frames: list[Any] = [frame for clip in clips for frame in clip.frames or ()]
    if pixels == "rgb":
        frames = [decoded(kind, frame) for frame in frames]
        if device.type == "cuda":
            frames = [torch.from_numpy(frame).to(device) for frame in frames]
    graph: Any = clip_graph(
        kind,
        crop_size=SIZE,
        device="gpu" if device.type == "cuda" else "cpu",
        batch_size=len(frames),
        num_threads=1,
        device_id=numbered(device).index,
        pixels=pixels,
    )
    graph.build()
    inputs = graph_inputs(kind, [clip.plan for clip in clips], Augmentation(), pixels)
    return np.array(feed_and_run(graph, {"frame": frames, **inputs}).as_cpu().as_array())


def run_decoder(kind: Kind, clips: Sequence[PlannedClip], device: torch.device) -> np.ndarray:
    """The same through the decoder that training on `device` uses."""
    decoder = build_decoders([kind], CONFIG, "jpeg", num_clips=len(clips), num_threads=1, device=device)[kind]
    found, blank = decoder.decode(clips)
    decoder.close()
    assert not blank, blank
    return found.receive().permute(0, 2, 3, 4, 1).flatten(0, 1).cpu().numpy()


def clip_parity(kind: Kind, device: torch.device, num: int = 24) -> Iterator[Parity]:
    """The graph's figures, in levels of 255 of the picture before normalization.

    nvJPEG's inverse DCT and chroma interpolation differ from libjpeg's by a few levels, so what lies behind the
    decoder is also compared by itself, on frames that the host decoded.
    """
    clips = made_up_clips(kind, num)
    frames = [(clip.plan, frame) for clip in clips for frame in clip.frames or ()]
    exact = np.stack([reference(kind, frame, plan).numpy() for plan, frame in frames])
    level = 1 / 255 / (Augmentation().std if kind == "visual" else 1.0)
    stretch = STRONGEST if kind == "visual" else 1.0
    case = f"{len(frames)} frames of {WIDTH} × {HEIGHT} to {SIZE}²"
    unit, cpu = "of 255 levels", torch.device("cpu")

    def figures(found: np.ndarray, expected: np.ndarray, what: str, against: str, most: float, mean: float):
        difference = np.abs(found.astype(np.float64) - expected) / level
        yield Parity(f"{kind} {what}, largest", case, against, float(difference.max()), most, unit)
        yield Parity(f"{kind} {what}, mean", case, against, float(difference.mean()), mean, unit)

    definition = "definition in float64"
    behind = run_graph(kind, clips, "rgb", device)
    yield from figures(behind, exact, f"graph on {device.type} behind the decoder", definition, 0.1, 0.01)
    on_cpu = run_graph(kind, clips, "jpeg", cpu)
    yield from figures(on_cpu, exact, "graph on cpu", definition, 0.1, 0.01)
    training = run_decoder(kind, clips, device)
    if device.type == "cpu":  # OpenCV works on bytes between the steps
        yield from figures(training, exact, "clips of training on cpu", definition, 2 * stretch, 0.4 * stretch)
        return
    on_gpu = run_graph(kind, clips, "jpeg", device)
    yield from figures(on_gpu, on_cpu, "graph on cuda", "graph on cpu", 12.0, 1.0)
    yield from figures(training, exact, "clips of training on cuda", definition, 12.0, 1.0)
