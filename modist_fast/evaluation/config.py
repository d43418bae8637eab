"""Options of evaluations: which network, which videos, which parts of them. Without torch: see `host.choices`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modist_fast.host.choices import Arch, Inflation, PrecisionOption
from modist_pipelines.lists.entry import ListFormat
from modist_pipelines.ranges import COUNT, FRAME_RATE, FROM_ZERO, Range, ranged


@dataclass(frozen=True)
class BackboneConfig:
    """Which network."""

    backbone: str
    """A run directory, an exported backbone.safetensors, a checkpoint step-*.pt or checkpoints/latest, weights of other
    people (docs/weights.md), "random", or "random:RUN" for a network shaped as that run's. Random networks get their
    batch-norm statistics from clips of the training videos."""
    arch: Arch = "r50"
    """Of a random network."""
    width: int = ranged(64, COUNT)
    """Channels of a random network's first convolution; of a ViT, the dimensions of a head."""
    inflation: Inflation = "mean"
    """How a net of pictures becomes one of clips. mean: each tap in time has its weights, divided by their number;
    centre: the middle tap alone has them."""


@dataclass(frozen=True)
class LabelledConfig:
    """Which videos, and what is known of them."""

    store: Path | None = None
    """A store made by modist prepare; or else --videos."""
    videos: Path | None = None
    """A folder of videos, decoded as they are."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of raw videos that are folders of pictures (img_00001.jpg)."""
    cache: Path | None = None
    """Folder on a disk of this machine that keeps what is read by URL; processes share it (docs/scale-data.md)."""
    cache_gb: float = ranged(50.0, Range(1e-6, 1e6))
    """With --cache: gigabytes that it may take. What was used last stays."""
    labels: Path | None = None
    """A list with the videos' labels, and other columns (group, split): a table or JSON, or a split file of UCF101,
    HMDB51 (or the folder of its split files), Kinetics or Something-Something v2. Without one, folders are the
    labels."""
    train_list: Path | None = None
    """With --test-list, in place of --labels: the lists of the two parts of a split."""
    test_list: Path | None = None
    """The list of the videos that are tested, with --train-list."""
    list_format: ListFormat = "auto"
    """What the lists are, where that cannot be told from them."""
    label_depth: int = ranged(0, Range(0, 100))
    """Without a list: which of the folders of a path is the label, counted from 1; 0 takes the innermost."""
    hmdb_split: int = ranged(1, Range(1, 3))
    """Which of the three splits of HMDB51 to take from a folder of split files."""
    label_column: str | None = None
    """The CSV's column of labels, where it is not "label", "class" or "category"."""
    group_column: str = "group"
    """The column that says what must stay on one side of a split: actor, sequence, source video."""
    where: tuple[str, ...] = ()
    """COLUMN=PATTERN: take only these videos; several must all hold. "path" and "label" are columns, * is anything."""
    odd_videos: Literal["wrong", "exclude"] = "wrong"
    """Videos of a test part that cannot be used (broken, too short, not in the store) count as wrong answers, or are
    left out of the score. Either way they are named with their reasons. Training goes without them."""


@dataclass(frozen=True)
class SplitConfig:
    """How the videos part into training and test."""

    protocol: Literal["split", "leave-one-group-out"] = "split"
    """One split, by the two conditions below; or as many as there are groups, each tested once."""
    train_where: tuple[str, ...] = ("split=train",)
    """COLUMN=PATTERN that training videos meet. A transfer is two such conditions: scene=1, scene=2."""
    test_where: tuple[str, ...] = ("split=test",)
    """COLUMN=PATTERN: the videos that are tested."""
    leaks: Literal["error", "report"] = "error"
    """A group, or copies of one video, on both sides of a split: an error, or a line in the log and the result."""
    odd_classes: Literal["wrong", "exclude", "error"] = "wrong"
    """Test videos of a class that no training video has, which nothing can learn: they count as wrong, are left out of
    the score, or are an error. Either way the log and the result name the classes."""


@dataclass(frozen=True)
class FeaturesConfig:
    """How features are computed and where they are kept."""

    folder: Path | None = None
    """Where features are kept, by default OUT/features; those that another evaluation beside OUT has are taken from
    there. Evaluations that share a folder compute them once."""
    batch_size: int = ranged(16, COUNT)
    """Clips that pass through the network together."""
    precision: PrecisionOption = "auto"
    """Number format of the nets. auto: bf16 where the hardware multiplies it, else fp16 on a GPU and fp32 on a CPU; the
    log says which."""
    num_threads: int = ranged(0, FROM_ZERO)
    """Reading and decoding threads of each process; 0 takes its share of the cores."""
