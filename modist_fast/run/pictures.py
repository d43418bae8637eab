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
from modist_fast.watch.metrics import read_metrics
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.motion_inputs import find_motion_input
from modist_pipelines.source import ClipSource

_SHEET_VIDEOS = 4
_SHEET_FRAMES = 8
_GAP = 4
_LABEL_WIDTH = 92


def save_loss_curve(path: Path, metrics: Path, bank_size: int) -> None:
    """Draw each term's loss and top-1 over the steps of a metrics.jsonl as PNG, beside a loss that knows nothing."""
    rows = read_metrics(metrics)
    steps = np.array([row["step"] for row in rows])
    figure = Figure(figsize=(11, 4), layout="constrained")
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
    for axis in (loss_axis, top1_axis):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
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

        def undo(clip: np.ndarray) -> np.ndarray:
            return clip * std + mean

        clips = [("visual query", batch.visual_query, undo), ("visual key", batch.visual_key, undo)]
        if batch.motion_query is not None and batch.motion_key is not None:
            to_rgb = find_motion_input(config.motion_input).to_rgb
            clips += [("motion query", batch.motion_query, to_rgb), ("motion key", batch.motion_key, to_rgb)]
        rows = [
            (label, _strip(clip[index], to_rgb))
            for index in range(len(batch.video_ids))
            for label, clip, to_rgb in clips
        ]
    finally:
        loader.close()
    _draw_rows(rows, len(clips)).save(path)


def _strip(clip: Tensor, to_rgb: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Frames of one clip (C, T, H, W) side by side, (H, n·W, 3) uint8."""
    chosen = torch.linspace(0, clip.shape[1] - 1, min(_SHEET_FRAMES, clip.shape[1])).round().long()
    frames = to_rgb(clip[:, chosen].cpu().numpy()).clip(0, 1)
    strip = frames.transpose(2, 1, 3, 0).reshape(clip.shape[2], -1, 3)
    return np.rint(strip * 255).astype(np.uint8)


def _draw_rows(rows: list[tuple[str, np.ndarray]], rows_per_video: int) -> Image.Image:
    height, width = rows[0][1].shape[:2]
    num_videos = len(rows) // rows_per_video
    total_height = len(rows) * (height + _GAP) + num_videos * 2 * _GAP
    sheet = Image.new("RGB", (_LABEL_WIDTH + width + _GAP, total_height), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for index, (label, strip) in enumerate(rows):
        draw.text((_GAP, top + height // 2 - 6), label, fill="black")
        sheet.paste(Image.fromarray(strip), (_LABEL_WIDTH, top))
        last_of_video = index % rows_per_video == rows_per_video - 1
        top += height + _GAP + (2 * _GAP if last_of_video else 0)
    return sheet
