"""RUN/ledger.jsonl: what each step drew and came to, so that it can be taken again and compared.

{"step": 0, "begun": {…}}                              an attempt: on what, and after which step it goes on
{"step": 1, "samples": "…", "loss": 4.85, "figures": "…"}  a step
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modist_fast.errors import ConfigError
from modist_fast.watch.run_log import LineFile, read_metrics

NAME = "ledger.jsonl"


@dataclass(frozen=True)
class Begun:
    """On what an attempt computes: where all of it is the same, every bit is."""

    plan: str
    """Digest of the rule by which clips are drawn, the seed and the videos."""
    store: str
    content: str
    """The two digests of the data, see `ClipSource`."""
    epochs: int
    """Of the schedule."""
    processes: int
    device: str
    """Its name; of a CPU with the instructions that torch uses."""
    threads: int
    """Of torch, in each process: they share a sum."""
    precision: str
    tf32: bool
    deterministic: bool
    groups_of_a_pass: int
    torch: str
    modist_fast: str | None
    git_revision: str | None


def digest_of_samples(video_ids: np.ndarray, deal: np.ndarray) -> str:
    """16 hex digits: whose clips a step draws, and in which order.

    Args:
        video_ids, deal: (B,) of the whole batch.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(video_ids, "<i4").tobytes(), digest_size=8)
    digest.update(np.ascontiguousarray(deal, "<i8").tobytes())
    return digest.hexdigest()


def digest_of_figures(found: Mapping[str, float]) -> str:
    """16 hex digits of all that a step's figures came to, to the last bit."""
    text = json.dumps(sorted(found.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Ledger(LineFile):
    """RUN/ledger.jsonl; rank 0 has one."""

    def __init__(self, out: Path, start_step: int, begun: Begun) -> None:
        super().__init__(out / NAME, start_step)
        self.write({"step": start_step, "begun": asdict(begun)})


@dataclass(frozen=True)
class Entries:
    """A ledger that was read.

    Attributes:
        begun: attempts, each after the step that it went on from.
        steps: a step's line.
    """

    begun: list[tuple[int, Begun]]
    steps: dict[int, Mapping[str, Any]]

    def attempts(self, first: int, last: int) -> list[Begun]:
        """Those that took the steps `first` to `last`."""
        ends = [after for after, _ in self.begun[1:]] + [math.inf]
        return [
            begun
            for (after, begun), end in zip(self.begun, ends, strict=True)
            if after < end and after < last and end >= first
        ]


def read_ledger(run: Path) -> Entries:
    """Read RUN/ledger.jsonl.

    Raises:
        ConfigError: it is absent, or a line of it is damaged.
    """
    path = run / NAME
    begun: list[tuple[int, Begun]] = []
    steps: dict[int, Mapping[str, Any]] = {}
    try:
        rows = read_metrics(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Runs of older versions have none. Verify a run that has one."
        ) from error
    for number, row in enumerate(rows, 1):
        try:
            if "begun" in row:
                begun.append((row["step"], Begun(**row["begun"])))
            else:
                steps[row["step"]] = {name: row[name] for name in ("samples", "loss", "figures")}
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{path} is damaged in line {number} ({error!r}). Bring back an intact copy.") from error
    if not begun:
        raise ConfigError(f"{path} does not say on what the run began. Bring back an intact copy.")
    return Entries(begun, steps)


def first_difference(
    steps: Iterable[int],
    recorded: Mapping[int, Mapping[str, Any]],
    replayed: Mapping[int, Mapping[str, Any]],
    metrics: Mapping[int, float],
    exact: bool,
) -> str | None:
    """The first step at which a replay is not what was recorded, in words; None where there is none.

    Args:
        recorded, replayed: lines of the two ledgers.
        metrics: losses of metrics.jsonl, NaN for a step that was left out.
        exact: to the last bit; otherwise the first three steps to 2e-5 of their loss and all to 1e-3.
    """
    for index, step in enumerate(steps):
        then, now, noted = recorded.get(step), replayed.get(step), metrics.get(step)
        if then is None or now is None or noted is None:
            where = "the ledger" if then is None else "the replay" if now is None else "metrics.jsonl"
            return f"step {step} is missing in {where}"
        losses = [float(line["loss"]) for line in (then, now)]
        if not _close(noted, losses[0], 0):
            return f"step {step}: metrics.jsonl has a loss of {noted!r}, the ledger {losses[0]!r}"
        if then["samples"] != now["samples"]:
            return f"step {step}: other samples were drawn (ledger {then['samples']}, replay {now['samples']})"
        if not _close(losses[0], losses[1], 0 if exact else 2e-5 if index < _FIRST else 1e-3):
            return f"step {step}: the loss was {losses[0]!r}, and is {losses[1]!r} in the replay"
        if exact and then["figures"] != now["figures"]:
            return f"step {step}: the loss is the same, but another figure is not (their digests differ)"
    return None


_FIRST = 3


def _close(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return abs(one - other) <= tolerance * abs(one)
