"""AVA's measure: the mean over classes of average precision, at an IoU of .5, as the PASCAL VOC toolkit counts it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from modist_fast.evaluation.ava.annotations import Boxes, Keyframe

MIN_IOU = 0.5


@dataclass(frozen=True)
class Curve:
    """What one class came to.

    Attributes:
        precision, recall: (m,) float64, after each detection by falling score.
        num_truth: boxes that show this action.
        average_precision: area under the envelope of the curve.
    """

    precision: np.ndarray
    recall: np.ndarray
    num_truth: int
    average_precision: float


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) boxes, x1, y1, x2, y2, to (n, m) intersections over unions; 0 where the union is empty."""
    corners = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def curves(
    truth: Mapping[Keyframe, Boxes],
    detected: Mapping[Keyframe, tuple[np.ndarray, np.ndarray]],
    actions: Iterable[int],
    excluded: Iterable[Keyframe] = (),
) -> dict[int, Curve]:
    """A curve for each action that the truth shows; the others are left out, and so out of the mean.

    A detection counts where the true box of its action that it overlaps most, in its keyframe, is not taken by one of
    a higher score, and the overlap is at least .5. Of equal scores the first in the order of the keyframes comes
    first. Detections in keyframes without truth are wrong.

    Args:
        detected: (n, 4) boxes and (n, K) scores of actions; column k is action k + 1.
        actions: those that count.
        excluded: keyframes to leave out on both sides.
    """
    left_out = set(excluded)
    truth = {keyframe: boxes for keyframe, boxes in truth.items() if keyframe not in left_out}
    detected = {keyframe: found for keyframe, found in detected.items() if keyframe not in left_out}
    ious = {
        keyframe: overlaps(boxes, truth[keyframe].places)
        for keyframe, (boxes, _) in detected.items()
        if keyframe in truth
    }
    found: dict[int, Curve] = {}
    for action in actions:
        num_truth = sum(int(boxes.actions[:, action - 1].sum()) for boxes in truth.values())
        if num_truth:
            found[action] = _curve(truth, detected, ious, action - 1, num_truth)
    return found


def mean_average_precision(found: Mapping[int, Curve]) -> float:
    """Over the classes that have truth; NaN where none has."""
    return float(np.mean([curve.average_precision for curve in found.values()])) if found else float("nan")


def _curve(
    truth: Mapping[Keyframe, Boxes],
    detected: Mapping[Keyframe, tuple[np.ndarray, np.ndarray]],
    ious: Mapping[Keyframe, np.ndarray],
    column: int,
    num_truth: int,
) -> Curve:
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for keyframe, (boxes, table) in detected.items():
        scores.append(table[:, column])
        hits = np.zeros(len(boxes), dtype=bool)
        if keyframe in truth and (shows := truth[keyframe].actions[:, column]).any():
            hits = _hits(ious[keyframe][:, shows], table[:, column])
        right.append(hits)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.cumsum(np.concatenate(right)[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / num_truth
    return Curve(precision, recall, num_truth, _area(precision, recall))


def _hits(ious: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) bool: which detections of a keyframe find a true box; `ious` (n, m)."""
    hits, taken = np.zeros(len(ious), dtype=bool), set()
    for row in np.argsort(-scores, kind="stable"):
        best = int(ious[row].argmax())
        if ious[row, best] >= MIN_IOU and best not in taken:
            taken.add(best)
            hits[row] = True
    return hits


def _area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Precision falls with recall in its envelope: at each recall it is the best at that recall or any higher one."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
