"""What a table of an ablation is, and those of the paper: what each arm changes in the preset, what it is held against.

`questions` has the tables that the paper does not have.
"""

from dataclasses import dataclass
from typing import Literal

PaperTable = Literal["3a", "3b", "3c", "3d"]


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
    flow: Literal["dis", "codec"] = "dis"
    """What its store's flow edges were made of: DIS, or the motion vectors that the videos' codec has stored."""
    net_of: str | None = None
    """Not trained: the net of this other arm, tested in another way."""
    histograms: Literal["none", "beside", "alone"] = "none"
    """Hand-made features, `flow_histograms`, beside the net's or in their place."""
    supervised: bool = False
    """Not trained: instead of a probe, all of the random net is trained with the labels."""
    time_of: str | None = None
    """Train as long as this other arm by the clock, not as many steps."""


@dataclass(frozen=True)
class Pool:
    """One test on several corpora, each video tested by the nets that had not seen it."""

    name: str
    title: str
    tasks: tuple[str, ...]
    """`Evaluation.task` of those whose videos are put together."""


@dataclass(frozen=True)
class Table:
    """Arms, and the pairs of arms whose difference is asked for."""

    title: str
    arms: tuple[Arm, ...]
    comparisons: tuple[tuple[str, str], ...]
    """(arm, against): both were trained from the same seeds and tested on the same videos."""
    motion_inputs: tuple[str, ...] = ("edges",)
    """Motion maps that its stores must hold."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Where the command names none."""
    tasks: tuple[str, ...] = ()
    """Only these tests of real videos (`Evaluation.task`); by default all."""
    folds: int = 1
    """More than 1: so many corpora, each without the actors and sequences of its fold, on which it is tested."""
    pools: tuple[Pool, ...] = ()
    """What is reported instead of each test by itself."""


RGB_ONLY_OPTIONS = ("--objective.no-motion",)
EDGES_OPTIONS = ("--objective.motion", "--clips.motion-input", "edges")

LIGHT_AUGMENTATION = (
    *("--clips.augmentation.crop-area", "0.8", "1", "--clips.augmentation.crop-aspect", "0.9", "1.1"),
    *("--clips.augmentation.color-strength", "0", "--clips.augmentation.gray", "0"),
    *("--clips.augmentation.blur", "0"),
)
OWN_OPTIONS = (*EDGES_OPTIONS, "--objective.cross-negatives", "own")
_OTHER_OPTIONS = (*EDGES_OPTIONS, "--objective.cross-negatives", "other")

RANDOM = Arm("random", "random initialization", trained=False)
RGB_ONLY = Arm("rgb-only", "RGB-only (Eq. 1)", RGB_ONLY_OPTIONS)
EDGES_OWN = Arm("edges-own", "+ flow edges, `own` negatives", OWN_OPTIONS)
EDGES_OTHER = Arm("edges-other", "+ flow edges, `other` negatives", _OTHER_OPTIONS)

PAPER_TABLES: dict[PaperTable, Table] = {
    "3a": Table(
        title="Table 3a: motion distillation",
        arms=(
            RANDOM,
            RGB_ONLY,
            Arm("rgb-only-time", "RGB-only, equal wall-clock", RGB_ONLY_OPTIONS, time_of="edges-other"),
            EDGES_OWN,
            EDGES_OTHER,
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
            Arm("edges", "+ flow edges", EDGES_OPTIONS),
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
            Arm("edges", "MoDist", EDGES_OPTIONS),
            Arm("no-jitter", "- temporal jitter", (*EDGES_OPTIONS, "--clips.synchronized")),
            Arm("no-threshold", "- motion threshold", (*EDGES_OPTIONS, "--clips.motion-threshold", "0")),
            Arm("no-motion-loss", "- Lm", (*EDGES_OPTIONS, "--objective.no-motion-loss")),
        ),
        comparisons=(("no-jitter", "edges"), ("no-threshold", "edges"), ("no-motion-loss", "edges")),
    ),
    "3d": Table(
        title="Table 3d: training epochs",
        arms=(
            RANDOM,
            Arm("sixth", "a sixth of the epochs (paper: 100)", EDGES_OPTIONS, length=1 / 6),
            Arm("third", "a third (200)", EDGES_OPTIONS, length=1 / 3),
            Arm("two-thirds", "two thirds (400)", EDGES_OPTIONS, length=2 / 3),
            Arm("all", "all (600)", EDGES_OPTIONS),
        ),
        comparisons=(("third", "sixth"), ("two-thirds", "third"), ("all", "two-thirds")),
    ),
}
