"""Grad-CAMs as pictures: frames with the map over them, backbones one under the other, the moving region outlined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from modist_fast.host.whole_file import whole_file
from modist_pipelines.video.write import write_video

_COLUMNS = 5  # frames shown of a clip
_SIDE = 160  # pixels of a frame in the picture
_VIDEO_SIDE = 288
_GAP = 6
_HEADER = 30
_OPACITY = 0.65
_COLOURS = mpl.colormaps["turbo"]
LEGEND = (
    "Colour: what speaks for the class (Grad-CAM), from nothing (the gray frame) to the clip's maximum (dark red). "
    "White outline: the moving region."
)


@dataclass(frozen=True)
class ShownClip:
    """A clip, or a whole video, ready to be drawn."""

    title: str
    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB."""
    region: np.ndarray
    """(T, H, W) bool: what moves."""
    cams: Sequence[tuple[str, np.ndarray]]
    """A backbone's name and its (T, H, W) map, not negative."""


def overlay(frame: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """A map over the gray frame, the clearer the more it says.

    Args:
        frame: (H, W, 3) uint8.
        cam: (H, W) float in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    gray = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    opacity = _OPACITY * np.sqrt(cam)[..., None]
    return (gray * (1 - opacity) + 255 * _COLOURS(cam)[..., :3] * opacity).round().astype(np.uint8)


def _shown_colours() -> ListedColormap:
    """The colours of `overlay` on medium gray, from 0 to 1."""
    shares = np.linspace(0, 1, 256, dtype=np.float32)
    return ListedColormap(overlay(np.full((1, 256, 3), 128, np.uint8), shares[None])[0] / 255)


def outline(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A copy of a (H, W, 3) picture with the border of a (H, W) region in white, on black so that it shows anywhere."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    picture = np.ascontiguousarray(picture)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(picture, contours, -1, colour, width, cv2.LINE_AA)
    return picture


def save_grid(path: Path, clips: Sequence[ShownClip], title: str, columns: int = 2) -> None:
    """Draw clips as PNG: a row of frames, then a row a backbone."""
    rows = -(-len(clips) // columns)
    lines = 1 + len(clips[0].cams)
    width, height = _COLUMNS * _SIDE + (_COLUMNS - 1) * _GAP, lines * _SIDE + (lines - 1) * _GAP
    size = (columns * (width + 110) / 100, (rows * (height + 44) + 90) / 100)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, clip in zip(axes.flat, clips, strict=False):
        axis.imshow(_sheet(clip), interpolation="lanczos")
        axis.set_title(clip.title, fontsize=12, loc="left")
        for line, label in enumerate(["frames", *(name for name, _ in clip.cams)]):
            middle = line * (_SIDE + _GAP) + _SIDE / 2
            axis.text(-10, middle, label, rotation=90, ha="right", va="center", fontsize=11)
    figure.suptitle(f"{title}\n", fontsize=15, fontweight="bold")
    figure.supxlabel(LEGEND, fontsize=11)
    bar = figure.colorbar(ScalarMappable(cmap=_shown_colours()), ax=axes, shrink=0.4, aspect=30, pad=0.01)
    bar.set_label("Grad-CAM, share of the clip's maximum", fontsize=11)
    figure.savefig(path, dpi=100)


def save_video(path: Path, videos: Sequence[ShownClip], fps: float) -> None:
    """Encode videos one after the other as MP4: frames and the backbones' maps side by side."""
    with whole_file(path) as half:
        write_video(half, [picture for video in videos for picture in _panels(video)], fps, container="mp4")


def _sheet(clip: ShownClip) -> np.ndarray:
    chosen = np.linspace(0, len(clip.frames) - 1, min(_COLUMNS, len(clip.frames))).round().astype(int)
    rows = []
    for cam in (None, *(cam for _, cam in clip.cams)):
        rows.append(_join([_draw(clip, number, cam, _SIDE) for number in chosen], axis=1))
    return _join(rows, axis=0)


def _panels(video: ShownClip) -> Iterator[np.ndarray]:
    labels = [f"frames · {video.title}", *(name for name, _ in video.cams)]
    header = _header(labels)
    for number in range(len(video.frames)):
        pictures = [_draw(video, number, cam, _VIDEO_SIDE) for cam in (None, *(cam for _, cam in video.cams))]
        picture = np.concatenate([header, _join(pictures, axis=1)])
        # H.264 wants even sides.
        yield np.pad(picture, [(0, side % 2) for side in picture.shape[:2]] + [(0, 0)], constant_values=255)


def _draw(clip: ShownClip, number: int, cam: np.ndarray | None, side: int) -> np.ndarray:
    size = (side, side)
    picture = cv2.resize(clip.frames[number], size, interpolation=cv2.INTER_CUBIC)
    region = cv2.resize(clip.region[number].astype(np.uint8), size, interpolation=cv2.INTER_LINEAR) > 0
    if cam is not None:
        scaled = cam[number] / max(float(cam.max()), 1e-12)
        picture = overlay(picture, cv2.resize(scaled, size, interpolation=cv2.INTER_LINEAR).clip(0, 1))
    return outline(picture, region)


def _join(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    gap_shape = list(pictures[0].shape)
    gap_shape[axis] = _GAP
    gap = np.full(gap_shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)


def _header(labels: Sequence[str]) -> np.ndarray:
    width = len(labels) * (_VIDEO_SIDE + _GAP) - _GAP
    image = Image.new("RGB", (width, _HEADER), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    for index, label in enumerate(labels):
        draw.text((index * (_VIDEO_SIDE + _GAP) + 4, 5), label, fill="black", font=font)
    return np.asarray(image)
