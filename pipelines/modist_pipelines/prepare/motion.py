"""The motion maps of a batch of frames, for a store: each input that it is to hold, as `motion_inputs` says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from modist_pipelines.motion_inputs import Flow, FramePairs, MapScale, find_motion_input
from modist_pipelines.store.reader import Border

OPTION = "--motion-inputs"


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


def motion_scales(names: Sequence[str], clamp: float) -> dict[str, MapScale]:
    """What the maps of these names mean, for store.json.

    Raises:
        DataError: there is no such input.
    """
    return {name: find_motion_input(name, OPTION).scale(clamp) for name in names}


class MotionMaps:
    """Computes the motion inputs of a batch of frames.

    Args:
        scales: name to what its pixels mean, as a store's card has them.
        edge_function: flow to edges.
        gain, border: of its filter.
    """

    def __init__(
        self, scales: Mapping[str, MapScale], edge_function: EdgeFunction, *, gain: float, border: Border
    ) -> None:
        self._scales = scales
        self._edge_function = edge_function
        self._gain = gain
        self._border: Border = border
        self.needs_flow = any(find_motion_input(name, OPTION).needs_flow for name in scales)

    def __call__(self, pairs: FramePairs) -> list[dict[str, tuple[np.ndarray, float]]]:
        """For each frame: name to (C, H, W) uint8 maps and score."""
        pairs = replace(pairs, edges=self._edges)
        found = {
            name: list(find_motion_input(name, OPTION).compute(pairs, scale.full_scale))
            for name, scale in self._scales.items()
        }
        return [{name: maps[place] for name, maps in found.items()} for place in range(len(pairs.grays))]

    def _edges(self, flows: Flow, clamp: float) -> tuple[np.ndarray, Sequence[float] | np.ndarray]:
        return self._edge_function(flows, gain=self._gain, border=self._border, clamp=clamp)
