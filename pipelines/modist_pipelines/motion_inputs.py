"""The motion inputs: pictures of how a frame moves (paper section 3.2 and Table 3b). This page is the whole list.

Preparation, the store's card, loaders, graphs, options, nets and pictures ask here what an input is; none knows a name.
docs/motion-inputs.md says how to add one.

A map has one or more channels, each a share of the input's full scale. They are stored as gray JPEGs, one a channel:
a colour JPEG would mix channels, and halve the size of two of them. Its score, which γ is held against, is the mean of
its strength before rounding, in [0, `SCORE_FULL_SCALE`].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from modist_pipelines.errors import DataError
from modist_pipelines.source import SCORE_FULL_SCALE

if TYPE_CHECKING:
    from torch import Tensor  # heavy, and DIS does without

Flow: TypeAlias = "np.ndarray | Tensor"
Maps: TypeAlias = Iterable[tuple[np.ndarray, float]]
"""For each frame of a batch: (C, H, W) uint8 pixels, and the score."""

FLOW_SPAN = 5  # nominal frames between the two frames of a flow field: t to t - 5
# Pixels per 5 frames. On the stored frames, faster motion is rare and mostly an error of the flow.
FLOW_FULL_SCALE = 32.0
GRADIENT_FULL_SCALE = 512.0  # gray levels of the plain Sobel filter: a sharp edge of half the range
_SIGNED_ZERO = 128  # the pixel of a value of 0 that may be negative: 127 levels on either side


@dataclass(frozen=True)
class MapScale:
    """What the pixels of a stored map mean: (pixel - zero) / (255 - zero) * full_scale, in `unit`. In store.json."""

    unit: str
    full_scale: float
    zero: int = 0
    channels: int = 1


@dataclass(frozen=True)
class FramePairs:
    """What there is of a batch of N frames to compute their maps from."""

    grays: Sequence[np.ndarray]
    """(H, W) uint8 each."""
    neighbours: Sequence[np.ndarray]
    """The nominal frames beside them, likewise."""
    flows: "Flow | None" = None
    """(N, H, W, 2) float32, (x, y) in pixels from a frame to the one 5 nominal frames before, on the host or a device;
    None where no input needs them."""
    later: Sequence[bool] = ()
    """Of each flow: whether it leads to the frame 5 nominal frames after, since there is none 5 before."""
    edges: "Callable[[Flow, float], tuple[np.ndarray, Sequence[float] | np.ndarray]] | None" = None
    """Flow edges of flows and a clamp: (N, H, W) uint8, and N means in pixels."""


@dataclass(frozen=True)
class MotionInput:
    """One entry: what is computed from a frame pair or its flow, how it is stored, and what may be done to it."""

    name: str
    """In options, in a store's card and in its columns."""
    unit: str
    full_scale: float | None
    """What a share of 1 stands for, in `unit`; None: what --clamp says."""
    compute: Callable[[FramePairs, float], Maps]
    """Maps and scores of a batch, given the full scale."""
    needs_flow: bool = True
    """Inputs without it can be had from raw videos, too."""
    mirror: tuple[int, ...] = (1,)
    """One a channel: the factor that a horizontal flip of the picture puts on its values. -1: they point along x."""
    signed: bool = False
    """Values from -1 to 1 rather than from 0."""
    picture: "Callable[[np.ndarray], np.ndarray] | None" = None
    """(C, ...) shares to (3, ...) RGB in [0, 1], for people; None: gray, of one channel."""

    @property
    def channels(self) -> int:
        return len(self.mirror)

    @property
    def zero(self) -> int:
        """The pixel where nothing moves."""
        return _SIGNED_ZERO if self.signed else 0

    def scale(self, clamp: float) -> MapScale:
        """What a store says of its maps."""
        return MapScale(self.unit, self.full_scale or clamp, self.zero, self.channels)

    def factors(self, flip: bool) -> np.ndarray:
        """(C,) float64: share = factor * (pixel - zero), of a clip that is flipped or is not."""
        return (np.array(self.mirror) if flip else np.ones(self.channels)) / (255 - self.zero)

    def strength(self, shares: np.ndarray) -> np.ndarray:
        """How much each pixel moves: (C, ...) shares as the nets see them to (...) not below 0."""
        return np.sqrt(np.square(shares).sum(axis=0)) if self.signed else shares.mean(axis=0)

    def to_rgb(self, shares: np.ndarray) -> np.ndarray:
        """(C, ...) shares to (3, ...) RGB in [0, 1]."""
        if self.picture is not None:
            return self.picture(shares)
        return np.repeat(shares.mean(axis=0, keepdims=True), 3, axis=0).clip(0, 1)

    def check_stored(self, scale: MapScale, place: str) -> None:
        """
        Raises:
            DataError: a store holds maps of another kind under this name.
        """
        if (scale.zero, scale.channels) != (self.zero, self.channels):
            raise DataError(
                f"{place} holds {self.name!r} in {scale.channels} channel(s) with {scale.zero} for no motion; this "
                f"version reads {self.channels} with {self.zero}. Prepare the videos again into another folder."
            )


def _edges(pairs: FramePairs, clamp: float) -> Maps:
    assert pairs.flows is not None
    assert pairs.edges is not None
    edges, means = pairs.edges(pairs.flows, clamp)
    return [(pixels[None], float(mean) / clamp * SCORE_FULL_SCALE) for pixels, mean in zip(edges, means, strict=True)]


def _magnitude(pairs: FramePairs, full_scale: float) -> Maps:
    for field in _on_host(pairs.flows):
        length = _lengths(field, full_scale)
        pixels = np.rint(length * (255 / full_scale)).astype(np.uint8)
        yield pixels[None], _score(length, full_scale)


def _flow(pairs: FramePairs, full_scale: float) -> Maps:
    """Where things go: the flow to the frame before, turned round, so that one that moves to the right has u > 0."""
    for field, later in zip(_on_host(pairs.flows), pairs.later, strict=True):
        levels = np.moveaxis(field, -1, 0) * ((1 if later else -1) * (255 - _SIGNED_ZERO) / full_scale)
        pixels = np.rint(levels.clip(_SIGNED_ZERO - 255, 255 - _SIGNED_ZERO) + _SIGNED_ZERO).astype(np.uint8)
        yield pixels, _score(_lengths(field, full_scale), full_scale)


def _difference(pairs: FramePairs, full_scale: float) -> Maps:
    import cv2

    for gray, neighbour in zip(pairs.grays, pairs.neighbours, strict=True):
        pixels = cv2.absdiff(gray, neighbour)
        yield pixels[None], _score(pixels, full_scale)


def _gradient(pairs: FramePairs, full_scale: float) -> Maps:
    import cv2

    for gray in pairs.grays:
        across = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
        down = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
        length = np.minimum(cv2.magnitude(across, down), full_scale)
        yield np.rint(length * (255 / full_scale)).astype(np.uint8)[None], _score(length, full_scale)


def _on_host(flows: "Flow | None") -> np.ndarray:
    assert flows is not None
    return flows if isinstance(flows, np.ndarray) else flows.numpy(force=True)


def _lengths(field: np.ndarray, most: float) -> np.ndarray:
    import cv2  # here and not above: nets are built without it

    return np.minimum(cv2.magnitude(field[..., 0], field[..., 1]), most)


def _score(values: np.ndarray, full_scale: float) -> float:
    return float(values.mean(dtype=np.float64)) / full_scale * SCORE_FULL_SCALE


def _colour_wheel(shares: np.ndarray) -> np.ndarray:
    """Hue: the direction, red to the right, cyan to the left. Brightness: the cube root of the length, so that slow
    motion shows, too."""
    u, v = shares
    phases = np.arange(3).reshape(3, *([1] * u.ndim)) * (2 * np.pi / 3)
    return (0.5 + 0.5 * np.cos(np.arctan2(v, u) - phases)) * np.cbrt(np.hypot(u, v).clip(0, 1))


_SPAN = f"pixels per {FLOW_SPAN} nominal frames"
MOTION_INPUTS: Mapping[str, MotionInput] = {
    entry.name: entry
    for entry in (
        MotionInput("edges", f"Sobel magnitude of the flow magnitude in {_SPAN}", None, _edges),
        MotionInput("magnitude", f"flow magnitude in {_SPAN}", FLOW_FULL_SCALE, _magnitude),
        MotionInput(
            "difference",
            "absolute difference of consecutive nominal frames in gray levels",
            255.0,
            _difference,
            needs_flow=False,
        ),
        # No motion at all: the control of docs/evidence.md that asks whether the look of edges is what teaches.
        MotionInput(
            "gradient",
            "Sobel magnitude of the frame itself in gray levels",
            GRADIENT_FULL_SCALE,
            _gradient,
            needs_flow=False,
        ),
        MotionInput(
            "flow",
            f"u (to the right) and v (down) of where a pixel goes in {_SPAN}",
            FLOW_FULL_SCALE,
            _flow,
            mirror=(-1, 1),
            signed=True,
            picture=_colour_wheel,
        ),
    )
}
DEFAULT = "edges"  # the paper's
DEFAULT_OF_RAW_VIDEOS = "difference"

if TYPE_CHECKING:
    MotionName: TypeAlias = str
else:
    MotionName = Literal[tuple(MOTION_INPUTS)]  # so that the command line offers those there are, and no others


def find_motion_input(name: str, option: str = "--clips.motion-input") -> MotionInput:
    """The entry of a name.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in MOTION_INPUTS:
        raise DataError(f"{option} {name}: there is no such motion input. There are: {', '.join(MOTION_INPUTS)}.")
    return MOTION_INPUTS[name]
