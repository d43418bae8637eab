"""The pictures of a run: its loss curve, and the clips that the nets see."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from modist_fast.config import TrainConfig
from modist_fast.objective import TERMS
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.motion_inputs import MotionInput, find_motion_input
from modist_pipelines.plan import ClipSpec
from modist_pipelines.source import ClipSource

_SHEET_VIDEOS = 4
_SHEET_FRAMES = 8
_SHEET_SIDE = 96  # pixels at least, of a frame
_GAP = 4
_LABEL_WIDTH = 150
_LINE = 16
_BRIGHT = 99.5  # percentile of a motion clip that becomes white


def save_loss_curve(path: Path, metrics: Path, bank_size: int, batch_size: int) -> None:
    """Draw each term's loss and top-1 over the steps of a metrics.jsonl as PNG, beside a loss that knows nothing.

    Steps before the banks are full are shaded: with few negatives any loss is low.
    """
    rows = [row for row in read_metrics(metrics) if math.isfinite(row["loss"])]  # the others were left out
    steps = np.array([row["step"] for row in rows])
    figure = Figure(figsize=(12.5, 4), layout="constrained")
    (loss_axis, top1_axis) = figure.subplots(1, 2)
    for term in TERMS:
        if f"loss_{term}" in rows[-1]:
            label = term.replace("_", " ")
            loss_axis.plot(*_smooth(steps, [row[f"loss_{term}"] for row in rows]), label=label)
            top1_axis.plot(*_smooth(steps, [100 * row[f"top1_{term}"] for row in rows]), label=label)
    loss_axis.axhline(math.log(1 + bank_size), color="gray", linestyle="--", label="ln(1 + negatives)")
    loss_axis.margins(y=0.08)  # or the line may lie on the frame
    loss_axis.set(xlabel="step", ylabel="InfoNCE", title="Loss by term")
    top1_axis.set(xlabel="step", ylabel="%", title="Top-1 among positive and negatives", ylim=(0, 100))
    full = bank_size / batch_size
    for axis in (loss_axis, top1_axis):
        axis.grid(alpha=0.3)
        if steps[0] < full:
            axis.axvspan(0, min(full, steps[-1]), color="gray", alpha=0.15, linewidth=0, label="the banks fill")
    figure.legend(*loss_axis.get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=110)


def _smooth(steps: np.ndarray, values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over windows of a fiftieth of the run: single steps are too noisy to read."""
    width = max(1, len(values) // 50)
    kernel = np.ones(width) / width
    return steps[width - 1 :], np.convolve(values, kernel, mode="valid")


def save_contact_sheet(path: Path, source: ClipSource, config: TrainConfig) -> None:
    """Draw the first batch's clips of some videos as PNG: query and key of both pathways, as the nets see them.

    The clips come from the loader itself. Since the plan is pure, one process with a small batch reads just
    what the run reads.
    """
    loader = ClipLoader(
        source,
        config.plan(source.grid, source.fps),
        batch_size=min(_SHEET_VIDEOS, config.batch_size),
        seed=config.seed,
        shuffle_keys=False,
        subset=config.clips.subset,
    )
    try:
        batch = next(iter(loader.iterate(0, 1)))
        mean, std = config.clips.augmentation.mean, config.clips.augmentation.std
        visual, motion = config.clips.visual, config.clips.motion

        def undo(clip: np.ndarray) -> np.ndarray:
            return clip * std + mean

        kinds = [("visual query", batch.visual_query, undo, visual), ("visual key", batch.visual_key, undo, visual)]
        if batch.motion_query is not None and batch.motion_key is not None:
            bright = _brightened(find_motion_input(config.motion_input))
            kinds += [("motion query", batch.motion_query, bright, motion)]
            kinds += [("motion key", batch.motion_key, bright, motion)]
        sheet = []
        for index, video in enumerate(batch.video_ids.tolist()):
            clips = [
                (name, _seconds(spec, source.fps), _frames(clip[index], to_rgb)) for name, clip, to_rgb, spec in kinds
            ]
            sheet.append((str(source.videos[video]), clips))
    finally:
        loader.close()
    _draw(sheet).save(path)


def _shown(num_frames: int) -> list[int]:
    """Places of the frames that are shown of a clip."""
    return torch.linspace(0, num_frames - 1, min(_SHEET_FRAMES, num_frames)).round().long().tolist()


def _seconds(spec: ClipSpec, fps: float) -> list[float]:
    """Of the frames that are shown, from the clip's first."""
    return [place * spec.stride / fps for place in _shown(spec.num_frames)]


def _brightened(motion: MotionInput) -> Callable[[np.ndarray], np.ndarray]:
    """As the input's own picture, but what has no sign is brought to white: weak motion would look like none."""

    def to_rgb(shares: np.ndarray) -> np.ndarray:
        top = float(np.percentile(shares, _BRIGHT)) if not motion.signed else 0.0
        return motion.to_rgb(shares / top if top > 0 else shares)

    return to_rgb


def _frames(clip: Tensor, to_rgb: Callable[[np.ndarray], np.ndarray]) -> list[Image.Image]:
    """Some frames of one clip (C, T, H, W), enlarged by a whole number where they are small."""
    frames = to_rgb(clip[:, _shown(clip.shape[1])].float().cpu().numpy()).clip(0, 1)
    pictures = [Image.fromarray(np.rint(frame * 255).astype(np.uint8)) for frame in frames.transpose(1, 2, 3, 0)]
    factor = -(-_SHEET_SIDE // min(pictures[0].size))
    return [picture.resize((factor * picture.width, factor * picture.height)) for picture in pictures]


def _draw(sheet: list[tuple[str, list[tuple[str, list[float], list[Image.Image]]]]]) -> Image.Image:
    """Videos under one another: a title, then a row of frames for each clip, over each frame its second in the clip.

    Args:
        sheet: title, and for each clip its label, the seconds of its frames, and these.
    """
    frames = sheet[0][1][0][2]
    width, height = frames[0].size
    rows = len(sheet[0][1])
    row_height = height + _GAP + _LINE
    video_height = _LINE + rows * row_height + 2 * _GAP
    picture = Image.new("RGB", (_LABEL_WIDTH + len(frames) * (width + _GAP), len(sheet) * video_height), "white")
    draw = ImageDraw.Draw(picture)
    for place, (title, clips) in enumerate(sheet):
        top = place * video_height + _GAP
        title = title.encode("ascii", "backslashreplace").decode()  # the font may have no more
        draw.text((_GAP, top), f"{title}   (seconds from the first frame of each clip)", fill="black")
        for row, (label, seconds, frames) in enumerate(clips):
            y = top + _LINE + row * row_height
            draw.text((_GAP, y + _LINE + height // 2 - 6), label, fill="black")
            for column, (second, frame) in enumerate(zip(seconds, frames, strict=True)):
                x = _LABEL_WIDTH + column * (width + _GAP)
                draw.text((x, y + 2), f"{second:.2f} s", fill="gray")
                picture.paste(frame, (x, y + _LINE))
    return picture
