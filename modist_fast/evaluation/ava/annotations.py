"""AVA's files: boxes with actions, predicted boxes, the list of classes, keyframes that do not count."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from modist_fast.errors import ConfigError

Keyframe: TypeAlias = tuple[str, int]
"""A video's name and a second of the movie."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of one keyframe.

    Attributes:
        places: (n, 4) float64 x1, y1, x2, y2 as shares of the frame's width and height; no two rows are equal.
        actions: (n, K) bool; column k is action k + 1.
        scores: (n,) float64 in [0, 1], of the person detector; 1 for annotated boxes.
    """

    places: np.ndarray
    actions: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.places)


def read_boxes(paths: Sequence[Path], num_actions: int, min_score: float | None = None) -> dict[Keyframe, Boxes]:
    """Read CSVs of boxes: video, second, x1, y1, x2, y2, action, and then a person or a score.

    Lines of one box, which has several actions, become one. A line may have no action: of a predicted box, or of a
    person who does nothing that is in the list.

    Args:
        num_actions: actions are 1 to this.
        min_score: the last column is a detector's score, and boxes below this are left out; None: the column is not
            looked at.

    Returns:
        Keyframes in the order of the files.

    Raises:
        ConfigError: a file or a line that is not of this form, or no box; the message names file and line.
    """
    found: dict[Keyframe, dict[tuple[float, ...], tuple[set[int], float]]] = {}
    for path in paths:
        for number, row in _rows(path):
            keyframe, place, action, score = _parse(path, number, row, num_actions, min_score is not None)
            if min_score is not None and score < min_score:
                continue
            actions, best = found.setdefault(keyframe, {}).setdefault(place, (set(), score))
            if action is not None:
                actions.add(action)
            if score > best:
                found[keyframe][place] = (actions, score)
    if not found:
        above = "" if min_score is None else f" with a score from {min_score:g}"
        raise ConfigError(
            f"{', '.join(map(str, paths))}: no box{above}. "
            "Look whether it is the file that the option means; lower --min-score if it is."
        )
    return {keyframe: _together(boxes, num_actions) for keyframe, boxes in found.items()}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, [value.strip() for value in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{path} cannot be read as a CSV ({error}). Give one of AVA's own form, or mend it."
        ) from error


def _parse(
    path: Path, number: int, row: list[str], num_actions: int, has_score: bool
) -> tuple[Keyframe, tuple[float, ...], int | None, float]:
    where = f"{path}, line {number}"
    if len(row) not in ((8,) if has_score else (7, 8)):
        last = "score" if has_score else "and a person or nothing"
        raise ConfigError(
            f"{where}: {len(row)} columns. Write the video, the second, x1, y1, x2, y2, the action, {last}."
        )
    keyframe = row[0], _second(where, row[1])
    try:
        x1, y1, x2, y2 = place = tuple(float(value) for value in row[2:6])
        fits = 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
    except ValueError:
        place, fits = (), False
    if not fits:
        raise ConfigError(
            f"{where}: the box {', '.join(row[2:6])}. Give x1, y1, x2, y2 as shares of the frame in [0, 1], "
            "the first corner above and left of the second."
        )
    action = None
    if row[6]:
        action = int(row[6]) if row[6].isdecimal() else 0
        if not 1 <= action <= num_actions:
            raise ConfigError(f"{where}: action {row[6]!r}. Give a whole number from 1 to {num_actions}, or nothing.")
    if not has_score:
        return keyframe, place, action, 1.0
    try:
        score = float(row[7])
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise ConfigError(f"{where}: score {row[7]!r}. Give a number in [0, 1].")
    return keyframe, place, action, score


def _second(where: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"{where}: second {value!r}. Give a whole number, such as 902 or 0902.")
    return int(value)


def _together(boxes: dict[tuple[float, ...], tuple[set[int], float]], num_actions: int) -> Boxes:
    actions = np.zeros((len(boxes), num_actions), dtype=bool)
    for row, (found, _) in enumerate(boxes.values()):
        actions[row, [action - 1 for action in found]] = True
    return Boxes(np.array(list(boxes)), actions, np.array([score for _, score in boxes.values()]))


def read_classes(path: Path, num_actions: int) -> dict[int, str]:
    """The actions that count, from a .pbtxt as AVA has it: `item { name: "stand" id: 12 }`, or `label` and `label_id`.

    Returns:
        Action to name, ascending.

    Raises:
        ConfigError: it cannot be read, names no class, one twice, or one beyond `num_actions`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Give a readable text file.") from error
    found: dict[int, str] = {}
    for block in re.finditer(r"\b(?:item|label)\s*\{(.*?)\}", text, re.DOTALL):
        line = text.count("\n", 0, block.start()) + 1
        name = re.search(r'\bname:\s*"([^"]*)"', block[1])
        number = re.search(r"\b(?:label_)?id:\s*(\d+)", block[1])
        if name is None or number is None:
            raise ConfigError(f'{path}, line {line}: an item needs name: "…" and id: (or label_id:).')
        if not 1 <= int(number[1]) <= num_actions or int(number[1]) in found:
            raise ConfigError(
                f"{path}, line {line}: id {number[1]} is there twice, or not within 1 to {num_actions}. Mend that item."
            )
        found[int(number[1])] = name[1]
    if not found:
        raise ConfigError(f'{path} names no class. Give a file of items such as item {{ name: "stand" id: 12 }}.')
    return dict(sorted(found.items()))


def read_excluded(paths: Sequence[Path]) -> set[Keyframe]:
    """Keyframes that do not count, one a line: video, second.

    Raises:
        ConfigError: a line that is not of this form.
    """
    found: set[Keyframe] = set()
    for path in paths:
        for number, row in _rows(path):
            if len(row) != 2:
                raise ConfigError(f"{path}, line {number}: {len(row)} columns. Write the video and the second.")
            found.add((row[0], _second(f"{path}, line {number}", row[1])))
    return found
