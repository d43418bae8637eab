"""What detection looks like: boxes with actions on keyframes, and the curves of the classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from modist_fast.evaluation.ava.average_precision import Curve, overlaps

_COLUMNS = 3
_MIN_PROBABILITY = 0.2  # of an action that is written at a box
_MOST_SHOWN = 3  # actions at a box
_CURVES = 12
_RIGHT, _WRONG, _TRUE = "#7ee787", "#ffb3ab", "#ffffff"


class Shown(NamedTuple):
    """One keyframe of the sheet."""

    title: str
    frame: np.ndarray
    """(H, W, 3) in [0, 1]."""
    boxes: np.ndarray
    """(n, 4) shares of the frame."""
    probabilities: np.ndarray
    """(n, K)."""
    truth: np.ndarray
    """(m, 4)."""
    actions: np.ndarray
    """(m, K) bool."""


def frame_of(clip: Tensor, mean: float, std: float) -> np.ndarray:
    """The keyframe of a (3, T, H, W) clip, as (H, W, 3) in [0, 1]: the first frame of its second half."""
    return (clip[:, clip.shape[1] // 2] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy(force=True)


def save_keyframes(path: Path, shown: Sequence[Shown], names: Mapping[int, str]) -> None:
    """Draw keyframes as PNG. At each box: what is told of it, green where true, red where not; white, what is missed.

    Args:
        names: action to name; the others are not shown.
    """
    rows = -(-len(shown) // _COLUMNS)
    height, width = shown[0].frame.shape[:2]
    figure = Figure(figsize=(4.6 * _COLUMNS, (4.6 * height / width + 0.25) * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, one in zip(axes, shown, strict=False):
        axis.imshow(one.frame, extent=(0, 1, 1, 0), aspect=one.frame.shape[0] / one.frame.shape[1])
        axis.set_title(one.title, fontsize=9)
        for place in one.truth:
            _rectangle(axis, place, _TRUE, ":")
        for place, table in zip(one.boxes, one.probabilities, strict=True):
            _rectangle(axis, place, "#ffd43b", "-")
            _write(axis, place, _lines(place, table, one, names))
    figure.suptitle(
        "box: yellow as given, dotted as annotated.  Action: green told and true, red told and not true, white missed",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)


def _lines(place: np.ndarray, table: np.ndarray, one: Shown, names: Mapping[int, str]) -> list[tuple[str, str]]:
    ious = overlaps(place[None], one.truth)[0] if len(one.truth) else np.zeros(0)
    true = one.actions[ious.argmax()] if len(ious) and ious.max() >= 0.5 else np.zeros(one.actions.shape[1], bool)
    told = sorted(names, key=lambda action: -table[action - 1])[:_MOST_SHOWN]
    told = [action for action in told if table[action - 1] >= _MIN_PROBABILITY]
    missed = [action for action in names if true[action - 1] and action not in told]
    return [
        *((f"{names[action]} {table[action - 1]:.2f}", _RIGHT if true[action - 1] else _WRONG) for action in told),
        *((names[action], _TRUE) for action in missed),
    ]


def _rectangle(axis, place: np.ndarray, color: str, style: str) -> None:
    x1, y1, x2, y2 = place
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linestyle=style, linewidth=1.4))


def _write(axis, place: np.ndarray, lines: Sequence[tuple[str, str]]) -> None:
    """Lines under each other, from the upper left corner of a box down."""
    for number, (text, color) in enumerate(lines):
        axis.text(
            float(np.clip(place[0], 0, 0.75)),
            place[1] + 0.005 + 0.062 * number,
            text,
            color=color,
            fontsize=7.5,
            va="top",
            bbox={"facecolor": "black", "alpha": 0.7, "pad": 1.2, "edgecolor": "none"},
        )


def save_curves(path: Path, found: Mapping[int, Curve], names: Mapping[int, str], mean: float) -> None:
    """Draw precision over recall as PNG, of the classes with the most boxes, their envelopes filled in below."""
    chosen = sorted(found, key=lambda action: -found[action].num_truth)[:_CURVES]
    chosen = sorted(chosen, key=lambda action: -found[action].average_precision)
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, action in zip(axes, chosen, strict=False):
        curve = found[action]
        if len(curve.recall):
            envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
            recall = np.concatenate([[0.0], curve.recall])
            axis.fill_between(recall, np.concatenate([envelope[:1], envelope]), step="pre", alpha=0.2, linewidth=0)
            axis.plot(curve.recall, curve.precision, linewidth=1.3)
        axis.set_title(
            f"{names[action]}: AP {100 * curve.average_precision:.0f} % of {curve.num_truth} boxes", fontsize=9
        )
        axis.set(xlim=(0, 1), ylim=(0, 1.03), xticks=(0, 0.25, 0.5, 0.75))
        axis.grid(alpha=0.3)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    left = f", {len(chosen)} of {len(found)} classes" if len(chosen) < len(found) else ""
    figure.suptitle(f"mAP {100 * mean:.1f} %{left}", fontsize=10)
    figure.savefig(path, dpi=110)
