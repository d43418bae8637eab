"""A made-up video set whose classes differ in motion alone.

Fifteen textured objects move over a drifting textured background, each in its own time: enough of them that motion is
all over the picture. After a second or so in one place an object fades and comes back in another: what two clips of a
video share is its textures, which RGB alone shows, and its motion, which flow edges show too, but not where things are.
The class says how they move; shape, texture, colours, background and drift are drawn without regard to it. Nor do
place, size and angle tell: an object takes part in every motion, but only that of its class runs, the others stand
still at a random moment. So a single frame is drawn from one and the same distribution whatever the class. Every class
looks the same mirrored, since RGB clips are flipped at random, and shows itself in any two seconds. Classes differ in
what one edge map shows, how strong its edges are and whether they fill objects or outline them, since the motion
pathway has no convolution over time.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from modist_fast.errors import ConfigError
from modist_fast.host.whole_file import whole_file
from modist_pipelines.video.write import write_video

WIDTH, HEIGHT, FPS, NUM_FRAMES = 128, 96, 30, 120
_CANVAS = 96  # pixels of the square that an object is drawn in
_MARGIN = 24  # pixels around the frame: of background, for its drift, and of room for objects
_NUM_OBJECTS = 15
_STAY, _FADE = 1.2, 0.15  # seconds for which an object is in one place, and in which it comes and goes
_OCTAVES = (4, 8, 16, 32)
_LUMA = np.array([0.299, 0.587, 0.114])


class Pose(NamedTuple):
    """Where a motion has an object at one moment, relative to its place, size and direction."""

    dx: float = 0.0
    """In units of the object's reach."""
    dy: float = 0.0
    scale: float = 1.0
    angle: float = 0.0
    """Radians."""


@dataclass(frozen=True)
class _Tempo:
    """What varies within a motion: when, how fast, which way round.

    The phase is uniform over a cycle, so that all moments of a motion are distributed alike.
    """

    phase: float
    frequency: float
    """Cycles a second."""
    sign: float
    leaps: np.ndarray
    """(n, 2) places in [-1, 1] for motions that jump."""

    def angle(self, seconds: float) -> float:
        return 2 * math.pi * (self.frequency * seconds + self.phase)


def _horizontal(t: float, tempo: _Tempo) -> Pose:
    return Pose(dx=math.sin(tempo.angle(t)))


def _shake(t: float, tempo: _Tempo) -> Pose:
    """Small and fast."""
    angle = tempo.angle(t)
    return Pose(dx=0.4 * tempo.sign * math.sin(4 * angle), dy=0.4 * math.cos(5 * angle))


def _swing(t: float, tempo: _Tempo) -> Pose:
    return Pose(angle=0.7 * math.sin(tempo.angle(t)))


def _circle(t: float, tempo: _Tempo) -> Pose:
    turn = tempo.sign * tempo.angle(t)
    return Pose(dx=0.8 * math.cos(turn), dy=0.8 * math.sin(turn))


def _bounce(t: float, tempo: _Tempo) -> Pose:
    """Parabolas about their mean height: the ball falls, hits and rises."""
    share = (tempo.frequency * t + tempo.phase) % 1.0
    return Pose(dy=4 / 3 - 8.0 * share * (1.0 - share))


def _rotate(t: float, tempo: _Tempo) -> Pose:
    return Pose(angle=0.8 * tempo.sign * tempo.angle(t))


def _pulsate(t: float, tempo: _Tempo) -> Pose:
    return Pose(scale=math.exp(0.45 * math.sin(tempo.angle(t))))


def _leap(t: float, tempo: _Tempo) -> Pose:
    """Rest, then dart to another place, twice a cycle."""
    beat = 2 * (tempo.frequency * t + tempo.phase)
    index, share = int(beat), beat % 1.0
    here, there = tempo.leaps[index % len(tempo.leaps)], tempo.leaps[(index + 1) % len(tempo.leaps)]
    move = min(1.0, max(0.0, (share - 0.6) / 0.4))
    move = move * move * (3 - 2 * move)
    dx, dy = here + move * (there - here)
    return Pose(dx=float(dx), dy=float(dy))


MOTIONS: dict[str, Callable[[float, _Tempo], Pose]] = {
    "horizontal": _horizontal,
    "shake": _shake,
    "swing": _swing,
    "circle": _circle,
    "bounce": _bounce,
    "rotate": _rotate,
    "pulsate": _pulsate,
    "leap": _leap,
}


def _texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32, 0 to 255: noise in octaves between two random colours, half of them striped."""
    noise = np.zeros((height, width), np.float32)
    for cells in _OCTAVES:
        shape = (max(2, height * cells // width), cells)
        octave = random.standard_normal(shape).astype(np.float32)
        noise += cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC) * random.uniform(0.2, 1.0)
    if random.random() < 0.5:
        angle, period = random.uniform(0, math.pi), random.uniform(6, 20)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        noise += 1.5 * np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
    mix = 1 / (1 + np.exp(-1.5 * noise / noise.std()))
    first, second = _colors(random)
    return first + mix[..., None] * (second - first)


def _colors(random: np.random.Generator) -> np.ndarray:
    """(2, 3) float32: a dark colour and a light one, in random order.

    Optical flow sees grays. Where there are none to follow it makes up edges, and how many would tell the video.
    """
    colors = random.uniform(0, 255, (2, 3))
    for color, luma in zip(colors, random.uniform((50, 160), (95, 205)), strict=True):
        for _ in range(3):  # what is cut off at the ends of the range is made up for
            color += luma - color @ _LUMA
            np.clip(color, 0, 255, out=color)
    return random.permutation(colors).astype(np.float32)


def _shape(random: np.random.Generator) -> np.ndarray:
    """(_CANVAS, _CANVAS) float32 mask in [0, 1]: an ellipse, a polygon or a star about the middle."""
    middle, reach = _CANVAS / 2, 0.46 * _CANVAS
    mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
    corners = int(random.integers(3, 9))
    radii = reach * random.uniform(0.55, 1.0, corners)
    if random.random() < 0.3:
        axes = (round(reach), round(reach * random.uniform(0.5, 1.0)))
        cv2.ellipse(mask, (round(middle), round(middle)), axes, random.uniform(0, 180), 0, 360, 255, -1)
    else:
        turns = np.arange(corners) * (2 * math.pi / corners) + random.uniform(0, 2 * math.pi)
        points = np.stack([middle + radii * np.cos(turns), middle + radii * np.sin(turns)], axis=1)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    return cv2.GaussianBlur(mask, (0, 0), 1.0).astype(np.float32) / 255


def _tempo(random: np.random.Generator) -> _Tempo:
    return _Tempo(
        phase=random.random(),
        frequency=random.uniform(0.5, 0.9),
        sign=random.choice((-1.0, 1.0)),
        leaps=random.uniform(-1, 1, (32, 2)),
    )


class PaintedObject(ABC):
    """A textured shape that can be drawn at any moment.

    Args:
        random: draws its texture and its shape.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._canvas = np.dstack([_texture(random, _CANVAS, _CANVAS), _shape(random)])

    @abstractmethod
    def pose(self, seconds: float) -> Pose:
        """In pixels from the middle of the frame; the scale is that of a canvas of 96 pixels."""

    @abstractmethod
    def opacity(self, seconds: float) -> float:
        """In [0, 1]."""

    def box(self, seconds: float) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels around what is to be seen of it, within the frame."""
        pose = self.pose(seconds)
        middle = _CANVAS / 2
        a, b = pose.scale * math.cos(pose.angle), pose.scale * math.sin(pose.angle)
        y, x = np.nonzero(self._canvas[..., 3] > 0.5)
        x, y = x + 0.5 - middle, y + 0.5 - middle
        across = np.clip(WIDTH / 2 + pose.dx + a * x - b * y, 0, WIDTH)
        down = np.clip(HEIGHT / 2 + pose.dy + b * x + a * y, 0, HEIGHT)
        return float(across.min()), float(down.min()), float(across.max()), float(down.max())

    def paint(self, frame: np.ndarray, seconds: float) -> None:
        """Draw it over `frame` (H, W, 3) float32."""
        pose = self.pose(seconds)
        x, y = WIDTH / 2 + pose.dx, HEIGHT / 2 + pose.dy
        # Only the square around it is drawn: nothing of the mask is further than half the canvas from its middle.
        middle = _CANVAS / 2
        reach = pose.scale * middle
        left, right = (min(WIDTH, max(0, round(x + side * reach))) for side in (-1, 1))
        top, bottom = (min(HEIGHT, max(0, round(y + side * reach))) for side in (-1, 1))
        if left == right or top == bottom:
            return
        x, y = x - left, y - top
        a, b = pose.scale * math.cos(pose.angle), pose.scale * math.sin(pose.angle)
        transform = np.array([[a, -b, x - (a - b) * middle], [b, a, y - (a + b) * middle]])
        drawn = cv2.warpAffine(self._canvas, transform, (right - left, bottom - top))
        part = frame[top:bottom, left:right]
        part += self.opacity(seconds) * drawn[..., 3:] * (drawn[..., :3] - part)


class MovingObject(PaintedObject):
    """A thing that moves, now here, now there.

    Args:
        motions: those that run; names of `MOTIONS`.
    """

    def __init__(self, random: np.random.Generator, motions: Collection[str]) -> None:
        super().__init__(random)
        size = math.exp(random.uniform(math.log(40), math.log(60))) / _CANVAS
        angle = random.uniform(0, 2 * math.pi)
        self._reach = random.uniform(6, 11)
        tempos = {name: _tempo(random) for name in MOTIONS}
        self._running = [(MOTIONS[name], tempos[name]) for name in motions]
        still = [stopped(0.0, tempos[name]) for name, stopped in MOTIONS.items() if name not in motions]
        half = np.array([WIDTH, HEIGHT]) / 2 + _MARGIN
        self._places = random.uniform(-half, half, (math.ceil(NUM_FRAMES / FPS / _STAY) + 1, 2))
        self._begun = random.uniform(0, _STAY)
        self._still = Pose(
            dx=self._reach * sum(pose.dx for pose in still),
            dy=self._reach * sum(pose.dy for pose in still),
            scale=size * math.prod(pose.scale for pose in still),
            angle=angle + sum(pose.angle for pose in still),
        )

    def pose(self, seconds: float) -> Pose:
        """All motions together: its own running, the others standing still."""
        moved = [motion(seconds, tempo) for motion, tempo in self._running]
        place = self._places[int((seconds + self._begun) / _STAY)]
        return Pose(
            dx=place[0] + self._still.dx + self._reach * sum(pose.dx for pose in moved),
            dy=place[1] + self._still.dy + self._reach * sum(pose.dy for pose in moved),
            scale=self._still.scale * math.prod(pose.scale for pose in moved),
            angle=self._still.angle + sum(pose.angle for pose in moved),
        )

    def opacity(self, seconds: float) -> float:
        """It fades where it changes its place."""
        since = (seconds + self._begun) % _STAY
        return min(1.0, since / _FADE, (_STAY - since) / _FADE)


class Picture:
    """Objects before a background that drifts.

    Args:
        contrast: of the background, as a share of that of objects.
    """

    objects: Sequence[PaintedObject]

    def __init__(self, random: np.random.Generator, contrast: float = 0.5) -> None:
        background = _texture(random, HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN)
        color = background.mean((0, 1))
        self._background = color + contrast * (background - color)
        self._drift, self._sway = random.uniform(-4, 4, 2), random.uniform(0, 2 * math.pi)

    def draw(self, number: int) -> np.ndarray:
        """Frame `number`: (HEIGHT, WIDTH, 3) uint8 RGB."""
        seconds = number / FPS
        x, y = _MARGIN + self._drift * (seconds - NUM_FRAMES / FPS / 2)
        transform = np.array([[1, 0, -x - 2 * math.sin(seconds + self._sway)], [0, 1, -y]])
        frame = cv2.warpAffine(self._background, transform, (WIDTH, HEIGHT))
        for thing in self.objects:
            thing.paint(frame, seconds)
        return frame.clip(0, 255).round().astype(np.uint8)


class Scene(Picture):
    """What one video shows: `motion` is the name of its class."""

    def __init__(self, seed: int, index: int) -> None:
        random = np.random.default_rng([seed, index])
        self.motion = list(MOTIONS)[index % len(MOTIONS)]
        super().__init__(random)
        self.objects = [MovingObject(random, [self.motion]) for _ in range(_NUM_OBJECTS)]


def _make(out: Path, seed: int, index: int) -> bool:
    path = out / list(MOTIONS)[index % len(MOTIONS)] / f"{index:04d}.mp4"
    return write_picture(path, lambda: Scene(seed, index))


def write_picture(path: Path, make: Callable[[], Picture]) -> bool:
    """Write a picture's frames as a video, unless it is there; whether it was written."""
    cv2.setNumThreads(1)
    if path.exists():
        return False
    scene = make()
    with whole_file(path) as half:
        write_video(half, [scene.draw(number) for number in range(NUM_FRAMES)], FPS, container="mp4")
    return True


def make_demo_videos(out: Path, *, num_videos: int, seed: int, workers: int) -> int:
    """Write OUT/<motion>/<index>.mp4, leaving alone what is already there.

    Returns:
        How many were made now.

    Raises:
        ConfigError: no videos asked for, or OUT holds those of another seed.
    """
    claim_folder(out, num_videos, seed)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(partial(_make, out, seed), range(num_videos)))


def claim_folder(out: Path, num_videos: int, seed: int) -> None:
    """Make the folder of made-up videos, and note their seed in it.

    Raises:
        ConfigError: no videos asked for, or the folder holds those of another seed.
    """
    if num_videos < 1:
        raise ConfigError(f"--num-videos {num_videos}: ask for at least 1.")
    out.mkdir(parents=True, exist_ok=True)
    marker = out / "seed.txt"
    if marker.exists() and marker.read_text(encoding="utf-8").strip() != str(seed):
        raise ConfigError(
            f"{out} holds the demo videos of seed {marker.read_text(encoding='utf-8').strip()}, not of --seed {seed}. "
            "Name another folder."
        )
    marker.write_text(f"{seed}\n", encoding="utf-8")
