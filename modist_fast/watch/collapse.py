"""The alarm for a collapse: keys that all point one way, and queries that find their own no better than by chance."""

import logging
from collections import deque
from collections.abc import Mapping
from typing import Literal

from modist_fast.errors import ConfigError

log = logging.getLogger("modist")

OnCollapse = Literal["warn", "stop"]
WINDOW = 200
SPREAD = 0.05
"""Of `watch.health.spread`: 1 for directions spread evenly."""
TIMES_CHANCE = 1.5
_MODALITIES = ("visual", "motion")


class CollapseAlarm:
    """Looks at the means of `WINDOW` steps, and says once where a modality's embedding has collapsed.

    Args:
        batch_size: chance is its inverse.
        then: what to do about it.
    """

    def __init__(self, batch_size: int, then: OnCollapse, window: int = WINDOW) -> None:
        self._chance, self._then = 1 / batch_size, then
        self._rows: deque[Mapping[str, float]] = deque(maxlen=window)
        self._said = False

    def see(self, step: int, found: Mapping[str, float]) -> None:
        """Take in a step's figures, which are the same on every rank.

        Raises:
            ConfigError: the embedding has collapsed, and the run is to stop then.
        """
        self._rows.append(found)
        if self._said or len(self._rows) < (self._rows.maxlen or 0):
            return
        collapsed = [words for name in _MODALITIES if (words := self._collapse_of(name))]
        if not collapsed:
            return
        self._said = True
        message = (
            f"the embedding has collapsed by step {step}, over the last {len(self._rows)} steps: "
            f"{'; '.join(collapsed)}. "
            "Lower --optim.lr, raise --objective.temperature or --objective.key-momentum."
        )
        if self._then == "stop":
            raise ConfigError(message)
        log.warning("WARNING: %s --on-collapse stop would end the run.", message)

    def _collapse_of(self, name: str) -> str:
        if f"spread_{name}" not in self._rows[0]:
            return ""
        if (spread := self._mean(f"spread_{name}")) > SPREAD:  # the usual case, asked at every step
            return ""
        uniformity, retrieval = self._mean(f"uniformity_{name}"), self._mean(f"retrieval_{name}")
        if retrieval > TIMES_CHANCE * self._chance:
            return ""
        return (
            f"{name} has spread {spread:.3f} (1: even), uniformity {uniformity:.3f}, and retrieval in the batch "
            f"{retrieval:.3f} (chance {self._chance:.3f})"
        )

    def _mean(self, name: str) -> float:
        return sum(row.get(name, 0.0) for row in self._rows) / len(self._rows)
