"""The arms of the paper's ablation tables: what each one changes in the preset, and what it is compared with."""

from dataclasses import dataclass
from typing import Literal

TableName = Literal["3a", "3b", "3c", "3d"]


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    """Also the name of its folder."""
    title: str
    options: tuple[str, ...] = ()
    """Of modist pretrain, beyond those that all arms share. They name what the arm is about even where the preset
    says the same, so that an arm is the same in every preset."""
    trained: bool = True
    """False: the random initialization, its batch-norm statistics set on clips."""
    length: float = 1.0
    """Share of the epochs, warm-up among them, that the other options ask for."""
    time_of: str | None = None
    """Train as long as this other arm by the clock, not as many steps."""


@dataclass(frozen=True)
class Table:
    """A table of the paper: its arms, and the pairs of arms whose difference is asked for."""

    title: str
    arms: tuple[Arm, ...]
    comparisons: tuple[tuple[str, str], ...]
    """(arm, against): both were trained from the same seeds and tested on the same videos."""
    motion_inputs: tuple[str, ...] = ("edges",)
    """Motion maps that its stores must hold."""


_RGB_ONLY = ("--objective.no-motion",)
_EDGES = ("--objective.motion", "--clips.motion-input", "edges")

RANDOM = Arm("random", "random initialization", trained=False)
RGB_ONLY = Arm("rgb-only", "RGB-only (Eq. 1)", _RGB_ONLY)

TABLES: dict[TableName, Table] = {
    "3a": Table(
        title="Table 3a: motion distillation",
        arms=(
            RANDOM,
            RGB_ONLY,
            Arm("rgb-only-time", "RGB-only, equal wall-clock", _RGB_ONLY, time_of="edges-other"),
            Arm("edges-own", "+ flow edges, `own` negatives", (*_EDGES, "--objective.cross-negatives", "own")),
            Arm("edges-other", "+ flow edges, `other` negatives", (*_EDGES, "--objective.cross-negatives", "other")),
        ),
        comparisons=(
            ("edges-other", "rgb-only"),
            ("edges-other", "rgb-only-time"),
            ("edges-own", "rgb-only"),
            ("edges-other", "edges-own"),
            ("rgb-only", "random"),
            ("edges-other", "random"),
        ),
    ),
    "3b": Table(
        title="Table 3b: what the motion pathway sees",
        arms=(
            RANDOM,
            RGB_ONLY,
            Arm("difference", "+ frame difference", ("--objective.motion", "--clips.motion-input", "difference")),
            Arm("magnitude", "+ flow magnitude", ("--objective.motion", "--clips.motion-input", "magnitude")),
            Arm("edges", "+ flow edges", _EDGES),
        ),
        comparisons=(
            ("difference", "rgb-only"),
            ("magnitude", "rgb-only"),
            ("edges", "rgb-only"),
            ("edges", "difference"),
            ("edges", "magnitude"),
        ),
        motion_inputs=("edges", "difference", "magnitude"),
    ),
    "3c": Table(
        title="Table 3c: what the method consists of",
        arms=(
            RANDOM,
            Arm("edges", "MoDist", _EDGES),
            Arm("no-jitter", "- temporal jitter", (*_EDGES, "--clips.synchronized")),
            Arm("no-threshold", "- motion threshold", (*_EDGES, "--clips.motion-threshold", "0")),
            Arm("no-motion-loss", "- Lm", (*_EDGES, "--objective.no-motion-loss")),
        ),
        comparisons=(("no-jitter", "edges"), ("no-threshold", "edges"), ("no-motion-loss", "edges")),
    ),
    "3d": Table(
        title="Table 3d: training epochs",
        arms=(
            RANDOM,
            Arm("sixth", "a sixth of the epochs (paper: 100)", _EDGES, length=1 / 6),
            Arm("third", "a third (200)", _EDGES, length=1 / 3),
            Arm("two-thirds", "two thirds (400)", _EDGES, length=2 / 3),
            Arm("all", "all (600)", _EDGES),
        ),
        comparisons=(("third", "sixth"), ("two-thirds", "third"), ("all", "two-thirds")),
    ),
}
