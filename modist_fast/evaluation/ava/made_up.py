"""A made-up AVA: objects whose motions are their actions, and the files that tell of them, in AVA's formats.

Three objects a video stay side by side, each in up to two motions of its own; nothing else tells its actions. The
generator knows where they are, so it writes boxes and actions of each keyframe, a detector's boxes that are a little
off, the list of actions, and a keyframe that does not count. The video begins at second 900, as AVA's frames do.
"""

import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from modist_fast.demo_videos import (
    HEIGHT,
    MOTIONS,
    WIDTH,
    MovingObject,
    Picture,
    claim_folder,
    write_picture,
)
from modist_fast.host.whole_file import whole_file

START_SECOND = 900
ACTIONS = {3 * number + 1: motion for number, motion in enumerate(MOTIONS)}
"""Action to motion; the numbers have gaps, as those of AVA's 60 of 80 have."""
STANDS = 80  # an action that is not in the list of those that count
TRUTH = {"train": "ava_train.csv", "val": "ava_val.csv"}
PREDICTED, CLASSES, EXCLUDED = "ava_val_predicted_boxes.csv", "ava_actions.pbtxt", "ava_val_excluded.csv"
_KEYFRAMES = (902, 903)  # a clip about each lies within the video
_PLACES = (-40.0, 0.0, 40.0)  # pixels from the middle
_TEST_EVERY = 4


class AvaScene(Picture):
    """What one video of the made-up AVA shows.

    Attributes:
        actions: of each object.
    """

    def __init__(self, seed: int, index: int) -> None:
        random = np.random.default_rng([seed, index, START_SECOND])
        super().__init__(random)
        self.objects, self.actions = [], []
        for place in _PLACES:
            chosen = random.permutation(list(ACTIONS))[: int(random.choice((0, 1, 2), p=(0.1, 0.6, 0.3)))]
            home = place + random.uniform(-4, 4), random.uniform(-14, 14)
            self.objects.append(MovingObject(random, [ACTIONS[int(action)] for action in chosen], home))
            self.actions.append(sorted(map(int, chosen)) or [STANDS])

    def boxes(self, second: int) -> np.ndarray:
        """(3, 4) x1, y1, x2, y2 as shares of the frame, at a second of the movie."""
        size = np.array([WIDTH, HEIGHT] * 2)
        return np.array([thing.box(second - START_SECOND) for thing in self.objects]) / size


def name_of_video(index: int) -> str:
    """Without the suffix, as AVA's lists have it."""
    return f"made-{index:04d}"


def _make(folder: Path, seed: int, index: int) -> bool:
    return write_picture(folder / f"{name_of_video(index)}.mp4", lambda: AvaScene(seed, index))


def make_ava(out: Path, *, num_videos: int, seed: int, workers: int) -> int:
    """Write OUT/videos/made-*.mp4 and AVA's files about them into OUT; videos that are there are left alone.

    Every fourth video is of the validation part.

    Returns:
        How many videos were made now.

    Raises:
        ConfigError: no videos asked for, or OUT holds those of another seed.
    """
    claim_folder(out, num_videos, seed)
    (out / "videos").mkdir(exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = sum(pool.map(partial(_make, out / "videos", seed), range(num_videos)))
    for part, name in TRUTH.items():
        indices = [index for index in range(num_videos) if (index % _TEST_EVERY == _TEST_EVERY - 1) == (part == "val")]
        _write(out / name, (row for index in indices for row in _truth(seed, index)))
        if part == "val":
            _write(out / PREDICTED, (row for index in indices for row in _predicted(seed, index)))
            _write(out / EXCLUDED, [[name_of_video(index), _second(_KEYFRAMES[0])] for index in indices[:1]])
    items = [f'item {{\n  name: "{motion}"\n  id: {action}\n}}\n' for action, motion in ACTIONS.items()]
    (out / CLASSES).write_text("".join(items), encoding="utf-8")
    return made


def _write(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with whole_file(path) as half, half.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _second(second: int) -> str:
    return f"{second:04d}"


def _numbers(box: np.ndarray) -> list[str]:
    return [f"{value:.3f}" for value in box]


def _truth(seed: int, index: int) -> Iterable[list[object]]:
    scene = AvaScene(seed, index)
    for second in _KEYFRAMES:
        for person, (box, actions) in enumerate(zip(scene.boxes(second), scene.actions, strict=True)):
            for action in actions:
                yield [name_of_video(index), _second(second), *_numbers(box), action, person]


def _predicted(seed: int, index: int) -> Iterable[list[object]]:
    """Each object a little off, and something that is nothing, of which the detector is not sure."""
    scene, random = AvaScene(seed, index), np.random.default_rng([seed, index, 1])
    for second in _KEYFRAMES:
        for box in scene.boxes(second):
            off = np.clip(box + random.normal(0, 0.012, 4), 0, 1)
            yield [name_of_video(index), _second(second), *_numbers(off), "", f"{random.uniform(0.91, 1):.3f}"]
        corner = random.uniform(0, 0.6, 2)
        nothing = np.concatenate([corner, corner + 0.3])
        yield [name_of_video(index), _second(second), *_numbers(nothing), "", f"{random.uniform(0.2, 0.88):.3f}"]
