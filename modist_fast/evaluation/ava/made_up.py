"""A made-up AVA: objects whose motions are their actions, and the files that tell of them, in AVA's formats.

Two objects a video stay side by side, each in up to two motions of its own; nothing else tells its actions. Each motion
looks the same mirrored, since clips are flipped at random, and is to be seen in any second. The generator knows where
the objects are, so it writes boxes and actions of each keyframe, a detector's boxes that are a little off, the list of
actions, and a keyframe that does not count. The video begins at second 900, as AVA's frames do.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from modist_fast.demo_videos import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    PaintedObject,
    Picture,
    Pose,
    claim_folder,
    write_picture,
)
from modist_fast.host.whole_file import whole_file

START_SECOND = 900
_OF_PLACE, _OF_FORM = ("rise", "fall", "sway"), ("turn", "grow", "shrink", "blink")
ACTIONS = {3 * number + 1: motion for number, motion in enumerate((*_OF_PLACE, *_OF_FORM))}
"""Action to motion; the numbers have gaps, as those of AVA's 60 of 80 have."""
STANDS = 80  # an action that is not in the list of those that count
TRUTH = {"train": "ava_train.csv", "val": "ava_val.csv"}
PREDICTED, CLASSES, EXCLUDED = "ava_val_predicted_boxes.csv", "ava_actions.pbtxt", "ava_val_excluded.csv"
_KEYFRAMES = (902, 903)  # a clip about each lies within the video
_PLACES = (-32.0, 32.0)  # pixels from the middle
_MIDDLE = NUM_FRAMES / FPS / 2  # seconds
_TEST_EVERY = 4
_SHARE_THAT_ACTS = 0.7


class Actor(PaintedObject):
    """A thing that does what its actions say, steadily, from the first second to the last.

    Args:
        actions: names of at most one motion of place and one of form.
        home: pixels from the middle of the frame, where it is in the middle of the video.
    """

    def __init__(self, random: np.random.Generator, actions: Sequence[str], home: tuple[float, float]) -> None:
        super().__init__(random)
        self._actions, self._home = set(actions), home
        self._size, self._angle = random.uniform(0.42, 0.55), random.uniform(0, 2 * math.pi)
        self._speed, self._sign = random.uniform(0.8, 1.2), random.choice((-1.0, 1.0))
        self._phase = random.random()

    def pose(self, seconds: float) -> Pose:
        since = self._speed * (seconds - _MIDDLE)
        rise = 16 * (("fall" in self._actions) - ("rise" in self._actions))
        growth = 0.4 * (("grow" in self._actions) - ("shrink" in self._actions))
        sway = 12 * ("sway" in self._actions)
        return Pose(
            dx=self._home[0] + sway * math.sin(2 * math.pi * (0.6 * since + self._phase)),
            dy=self._home[1] + rise * since,
            scale=self._size * math.exp(growth * since),
            angle=self._angle + self._sign * since * 2.2 * ("turn" in self._actions),
        )

    def opacity(self, seconds: float) -> float:
        """A blink goes down to a fifth."""
        if "blink" not in self._actions:
            return 1.0
        return 0.6 + 0.4 * math.sin(2 * math.pi * (self._speed * seconds + self._phase))


class AvaScene(Picture):
    """What one video of the made-up AVA shows.

    Attributes:
        actions: of each object.
    """

    def __init__(self, seed: int, index: int) -> None:
        random = np.random.default_rng([seed, index, START_SECOND])
        super().__init__(random, contrast=0.15)  # so that a few hundred videos teach the motions
        self.objects, self.actions = [], []
        for place in _PLACES:
            chosen = [random.choice(group) for group in (_OF_PLACE, _OF_FORM) if random.random() < _SHARE_THAT_ACTS]
            home = place + random.uniform(-4, 4), random.uniform(-8, 8)
            self.objects.append(Actor(random, chosen, home))
            self.actions.append([action for action, name in ACTIONS.items() if name in chosen] or [STANDS])

    def boxes(self, second: int) -> np.ndarray:
        """(2, 4) x1, y1, x2, y2 as shares of the frame, at a second of the movie."""
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
