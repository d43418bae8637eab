"""Motion inputs: pictures of how a frame moves (paper section 3.2 and Table 3b).

Each is an (H, W) uint8 map and a score, its mean before rounding. The pixel values cover [0, full scale] of
`motion_inputs`; scores are in tenths of the full scale, which for flow edges with the default clamp are the
units of P in the paper, [0, 10].
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import cv2
import numpy as np

from modist_pipelines.prepare.flow import Flow
from modist_pipelines.source import SCORE_FULL_SCALE
from modist_pipelines.store.reader import Border, MotionInput

MotionName = Literal["edges", "magnitude", "difference"]

FLOW_SPAN = 5  # nominal frames between the two frames of a flow field: t to t - 5
# Pixels per 5 frames. On the stored frames, faster motion is rare and mostly an error of the flow.
MAGNITUDE_FULL_SCALE = 32.0
DIFFERENCE_FULL_SCALE = 255.0


class EdgeFunction(Protocol):
    """Flow edges of a batch of fields; a module-level function, since worker processes import it by name."""

    def __call__(
        self, flows: Flow, *, gain: float, border: Border, clamp: float
    ) -> tuple[np.ndarray, Sequence[float] | np.ndarray]:
        """
        Args:
            flows: (N, H, W, 2) float32, pixels per 5 frames, on the host or a device.
            gain: factor on the plain 3x3 Sobel filter.
            border: what the filter sees beyond the frame.
            clamp: upper end of P.

        Returns:
            (N, H, W) uint8, P / clamp * 255 rounded; and the mean of each P.
        """
        ...


def motion_inputs(names: Sequence[MotionName], clamp: float) -> dict[str, MotionInput]:
    """What the maps of these names mean, for store.json."""
    span = f"pixels per {FLOW_SPAN} nominal frames"
    known = {
        "edges": MotionInput(f"Sobel magnitude of the flow magnitude in {span}", clamp),
        "magnitude": MotionInput(f"flow magnitude in {span}", MAGNITUDE_FULL_SCALE),
        "difference": MotionInput(
            "absolute difference of consecutive nominal frames in gray levels", DIFFERENCE_FULL_SCALE
        ),
    }
    return {name: known[name] for name in names}


def needs_flow(names: Sequence[str]) -> bool:
    return bool({"edges", "magnitude"} & set(names))


class MotionMaps:
    """Computes the motion inputs of a batch of frames."""

    def __init__(
        self,
        names: Sequence[str],
        edge_function: EdgeFunction,
        *,
        gain: float,
        border: Border,
        clamp: float,
    ) -> None:
        self._names = names
        self._edge_function = edge_function
        self._gain = gain
        self._border: Border = border
        self._clamp = clamp

    def __call__(
        self, flows: "Flow | None", grays: Sequence[np.ndarray], neighbours: Sequence[np.ndarray]
    ) -> list[dict[str, tuple[np.ndarray, float]]]:
        """
        Args:
            flows: (N, H, W, 2) float32, or None where no input needs them.
            grays, neighbours: N times (H, W) uint8: the frame and the nominal frame beside it.

        Returns:
            For each frame: name to (H, W) uint8 map and score.
        """
        found: dict[str, list[tuple[np.ndarray, float]]] = {}
        for name in self._names:
            if name == "difference":
                maps = map(cv2.absdiff, grays, neighbours)
                found[name] = [(pixels, _score(pixels, DIFFERENCE_FULL_SCALE)) for pixels in maps]
                continue
            assert flows is not None
            if name == "magnitude":
                fields = flows if isinstance(flows, np.ndarray) else flows.numpy(force=True)
                found[name] = [_magnitude(field) for field in fields]
            else:
                edges, means = self._edge_function(flows, gain=self._gain, border=self._border, clamp=self._clamp)
                scores = [float(mean) / self._clamp * SCORE_FULL_SCALE for mean in means]
                found[name] = list(zip(edges, scores, strict=True))
        return [{name: maps[place] for name, maps in found.items()} for place in range(len(grays))]


def _magnitude(field: np.ndarray) -> tuple[np.ndarray, float]:
    magnitude = np.minimum(cv2.magnitude(field[..., 0], field[..., 1]), MAGNITUDE_FULL_SCALE)
    pixels = np.rint(magnitude * (255 / MAGNITUDE_FULL_SCALE)).astype(np.uint8)
    return pixels, _score(magnitude, MAGNITUDE_FULL_SCALE)


def _score(values: np.ndarray, full_scale: float) -> float:
    return float(values.mean(dtype=np.float64)) / full_scale * SCORE_FULL_SCALE
