"""Options of what is done with frozen features. Without torch: see `host.choices`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from modist_fast.config import OutKind
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig, FeaturesConfig, LabelledConfig, SplitConfig
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, DeviceOption
from modist_pipelines.ranges import COUNT, FRAME_RATE, FROM_ZERO, MOMENTUM, PART, POSITIVE, ranged


@dataclass(frozen=True)
class LbfgsConfig:
    """Multinomial logistic regression: ½ ‖W‖² + C · Σ over the training samples of the cross entropy; the bias is free.

    That is scikit-learn's `LogisticRegression(C=C)`; with two classes, of which it penalizes one, C=2 C. C is fixed
    beforehand, never chosen on test videos.
    """

    c: float = ranged(0.01, POSITIVE)
    """Inverse of the weight of the L2 penalty, as scikit-learn's C."""
    normalize: Literal["standardize", "l2"] = "standardize"
    """standardize: mean 0 and deviation 1 of each feature over the training samples; l2: unit length."""


@dataclass(frozen=True)
class SgdConfig:
    """The paper's linear protocol (values of the authors' released code): no weight decay, no dropout, BN in eval."""

    lr: float = ranged(32.0, FROM_ZERO)
    """For a batch of 256; falls to 0 over the epochs as a cosine."""
    batch_size: int = ranged(256, COUNT)
    """Features a step."""
    epochs: int = ranged(200, COUNT)
    """Passes over the features."""
    momentum: float = ranged(0.9, MOMENTUM)
    """Of SGD."""
    normalize: Literal["none", "standardize", "l2"] = "none"
    """Features are scaled to length 1 first."""


@dataclass(frozen=True)
class KnnConfig:
    """The vote: each of the k nearest training videos adds exp(cosine / temperature) to its class (Wu et al., 2018)."""

    k: int = ranged(20, COUNT)
    """Neighbours that vote."""
    temperature: float = ranged(0.07, POSITIVE)
    """Of their votes, exp(cosine / temperature)."""


Plain = tyro.conf.arg(name="")  # options under their own names, without the part's before them


@dataclass(frozen=True, kw_only=True)
class FrozenConfig:
    """What every evaluation of a frozen backbone needs."""

    out: Path
    """Takes result.json, confusion.png and the features."""
    network: Annotated[BackboneConfig, Plain]
    data: Annotated[LabelledConfig, Plain] = field(default_factory=LabelledConfig)
    split: Annotated[SplitConfig, Plain] = field(default_factory=SplitConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    device: DeviceOption = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    collective_timeout: float = ranged(COLLECTIVE_TIMEOUT, COUNT)
    """Seconds that a process waits for the others in one exchange before it gives up."""
    seed: int = ranged(0, FROM_ZERO)
    """Of a random backbone, the classifier, the subsets and the intervals."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(FrozenConfig):
    """Train a linear classifier on frozen features (paper section 4.2, "linear")."""

    recipe: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs: logistic regression with a fixed penalty; sgd: the paper's."""
    average: Literal["auto", "features", "softmax"] = "auto"
    """Over a video's views. features: their mean, in training and at test; softmax: each view trains by itself, and the
    views' probabilities are averaged. auto: features with lbfgs, softmax with sgd."""
    augmented_views: int = ranged(0, FROM_ZERO)
    """Train on this many randomly placed, scaled and flipped clips of each video in place of its test views."""
    beside: Path | None = None
    """Features of another kind, put beside the net's: a file of modist features, or a Parquet with the columns video
    and features."""
    beside_alone: bool = False
    """Take those of --beside in place of the net's."""
    lbfgs: LbfgsConfig = field(default_factory=LbfgsConfig)
    sgd: SgdConfig = field(default_factory=SgdConfig)


@dataclass(frozen=True, kw_only=True)
class LowShotConfig(LinearConfig):
    """The linear classifier on parts of the training videos (paper, low-shot)."""

    shares: tuple[float, ...] = ranged((0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0), PART)
    """Of each class's training videos; at least one. Every share's videos are among those of the next."""
    subsets: int = ranged(3, COUNT)
    """How many draws of each share are scored."""


@dataclass(frozen=True, kw_only=True)
class KnnEvaluationConfig(FrozenConfig):
    """Classify by a weighted vote of the nearest training videos (mean feature of the views, cosine)."""

    knn: KnnConfig = field(default_factory=KnnConfig)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(FrozenConfig):
    """Retrieve training videos for each test video: R@k, is one of the k nearest of its class?"""

    ks: tuple[int, ...] = ranged((1, 5, 10, 20), COUNT)
    """Right where a video of the class is among the k nearest; for each of these k."""


SUFFIXES = (".parquet", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class PlainVideosConfig:
    """Write the features of videos to a file: (N, V, D), the names of N videos, and when each view begins and ends."""

    out_is: ClassVar[OutKind] = "file"
    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A folder of videos, some files, or a store."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of raw videos that are folders of pictures (img_00001.jpg)."""
    network: Annotated[BackboneConfig, tyro.conf.arg(name="")]
    out: Path
    """F.parquet, a row a view, or F.safetensors. F.parts beside it keeps what is done: a killed call goes on."""
    every: float | None = ranged(None, POSITIVE)
    """A clip every so many seconds (to the nearest stored frame), in place of the views at equal distances: then N
    counts clips, and V is 1 (or 3 with --views.spatial 3)."""
    views: ViewsConfig = field(default_factory=lambda: ViewsConfig(temporal=10, spatial=1))
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    device: DeviceOption = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    collective_timeout: float = ranged(COLLECTIVE_TIMEOUT, COUNT)
    """Seconds that a process waits for the others in one exchange before it gives up."""
    seed: int = ranged(0, FROM_ZERO)
    """Of a random backbone."""


def check_suffix(out: Path) -> None:
    """
    Raises:
        ConfigError: the file's suffix names no format.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: its suffix says the format. Give it {' or '.join(SUFFIXES)}.")
