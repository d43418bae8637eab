"""Evaluations on frozen features: what they share, and the four of them."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch.distributed as dist
import tyro

from modist_fast.checkpoint import plain
from modist_fast.distributed import DeviceOption, World
from modist_fast.environment import git_revision
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import Backbone, BackboneConfig, open_backbone
from modist_fast.evaluation.clips import Request
from modist_fast.evaluation.features import CALIBRATION_CLIPS, Extraction, FeaturesConfig, calibrate, extract
from modist_fast.evaluation.labelled import LabelledConfig, LabelledVideos, open_labelled
from modist_fast.evaluation.linear import LbfgsConfig, SgdConfig, fit_lbfgs, fit_sgd
from modist_fast.evaluation.neighbours import KnnConfig, first_hits, knn_probabilities
from modist_fast.evaluation.results import accuracies, classification, odd_rows
from modist_fast.evaluation.shape_probe import shape_probabilities
from modist_fast.evaluation.splits import Fold, Leak, SplitConfig, low_shot_subset, make_folds, refuse_leaks
from modist_fast.evaluation.views import ViewsConfig, ViewSpec, plan_training_clip, plan_views, resolve_views

log = logging.getLogger("modist")
Plain = tyro.conf.arg(name="")  # options under their own names, without the part's before them
Answer = TypeVar("Answer")


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
    seed: int = 0
    """Of a random backbone, the classifier, the subsets and the intervals."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig(FrozenConfig):
    """Train a linear classifier on frozen features (paper section 4.2, "linear")."""

    recipe: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs: logistic regression with a fixed penalty; sgd: the paper's."""
    average: Literal["auto", "features", "softmax"] = "auto"
    """Over a video's views. features: their mean, in training and at test; softmax: each view trains by itself, and the
    views' probabilities are averaged. auto: features with lbfgs, softmax with sgd."""
    augmented_views: int = 0
    """Train on this many randomly placed, scaled and flipped clips of each video in place of its test views."""
    lbfgs: LbfgsConfig = field(default_factory=LbfgsConfig)
    sgd: SgdConfig = field(default_factory=SgdConfig)


@dataclass(frozen=True, kw_only=True)
class LowShotConfig(LinearConfig):
    """The linear classifier on parts of the training videos (paper, low-shot)."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Of each class's training videos; at least one. Every share's videos are among those of the next."""
    subsets: int = 3
    """How many draws of each share are scored."""


@dataclass(frozen=True, kw_only=True)
class KnnEvaluationConfig(FrozenConfig):
    """Classify by a weighted vote of the nearest training videos (mean feature of the views, cosine)."""

    knn: KnnConfig = field(default_factory=KnnConfig)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(FrozenConfig):
    """Retrieve training videos for each test video: R@k, is one of the k nearest of its class?"""

    ks: tuple[int, ...] = (1, 5, 10, 20)


@dataclass
class Frozen:
    """Everything opened, and the features of all views.

    Attributes:
        features: (N, V, D) float32, NaN for odd videos.
    """

    config: FrozenConfig
    world: World
    backbone: Backbone
    spec: ViewSpec
    labelled: LabelledVideos
    folds: list[Fold]
    leaks: list[Leak]
    features: np.ndarray

    def means(self) -> np.ndarray:
        """(N, D): of each video's views."""
        return self.features.mean(axis=1)

    def usable(self, videos: np.ndarray) -> np.ndarray:
        return videos[~np.isin(videos, list(self.labelled.odd))]

    def over_folds(self, work: Callable[[Fold], Answer]) -> list[Answer]:
        """The answer for each fold; the ranks share the folds out."""
        mine = {place: work(self.folds[place]) for place in range(self.world.rank, len(self.folds), self.world.size)}
        everyone: list[dict[int, Answer]] = [{} for _ in range(self.world.size)]
        dist.all_gather_object(everyone, mine)
        together = {place: answer for part in everyone for place, answer in part.items()}
        return [together[place] for place in range(len(self.folds))]

    def classify(self, work: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """Probabilities of each fold's test videos; NaN for odd ones.

        Args:
            work: training videos and usable test videos to (m, K).
        """

        def one(fold: Fold) -> np.ndarray:
            found = np.full((len(fold.test), len(self.labelled.classes)), np.nan)
            tested = self.usable(fold.test)
            found[np.isin(fold.test, tested)] = work(fold.train, tested)
            return found

        return self.over_folds(one)

    def result(self, task: str) -> dict[str, Any]:
        """What every result says of where it comes from."""
        return describe(task, self.config, self.backbone, self.spec, self.labelled, self.leaks)


def describe(
    task: str, config: Any, backbone: Backbone, spec: ViewSpec, labelled: LabelledVideos, leaks: Sequence[Leak]
) -> dict[str, Any]:
    """What every result says of where it comes from, JSON-ready."""
    return {
        "task": task,
        "backbone": {"origin": backbone.origin, "digest": backbone.digest(), "card": backbone.card},
        "options": plain(dataclasses.asdict(config)),
        "views": dataclasses.asdict(spec),
        "videos_of": str(labelled.source.path),
        "fingerprint": labelled.fingerprint(),
        "odd_videos": labelled.when_tested,
        "odd": odd_rows(labelled),
        "leaks": [leak._asdict() for leak in leaks],
        "git_revision": git_revision(),
    }


def open_frozen(config: FrozenConfig, world: World) -> Frozen:
    """Open backbone and videos, check the split, and compute the features that are not there yet.

    Raises:
        ConfigError, DataError: what the user can mend.
    """
    backbone = open_backbone(config.network, config.seed)
    spec = resolve_views(config.views, backbone.card)
    labelled = open_labelled(config.data, spec.stride, world.device, config.features.num_threads)
    spec.plan_config(labelled.source.grid)  # whether the stride fits the store, before anything expensive
    folds = make_folds(config.split, labelled)
    leaks = refuse_leaks(config.split, folds, labelled)
    if backbone.is_random:
        _calibrate(config, world, backbone, spec, labelled, folds)
    grid = labelled.source.grid
    extraction = Extraction(
        backbone, labelled, spec, lambda video: plan_views(spec, labelled.info(video), grid), "test", labelled.usable()
    )
    features = extract(extraction, config.features, features_folder(config), world)
    if not np.isfinite(features[labelled.usable()]).all():
        raise ConfigError("the backbone gives features that are not finite.")
    return Frozen(config, world, backbone, spec, labelled, make_folds(config.split, labelled), leaks, features)


def features_folder(config: FrozenConfig) -> Path:
    return config.features.folder or config.out / "features"


def _calibrate(
    config: FrozenConfig,
    world: World,
    backbone: Backbone,
    spec: ViewSpec,
    labelled: LabelledVideos,
    folds: Sequence[Fold],
) -> None:
    train = np.unique(np.concatenate([fold.train for fold in folds]))
    chosen = np.random.default_rng(config.seed).permutation(train)[:CALIBRATION_CLIPS].tolist()
    requests = [
        Request(video, int(labelled.rows[video]), [_training_clip(labelled, spec, config.seed, 0, video)])
        for video in chosen
    ]
    calibrate(backbone, labelled, requests, spec, world, config.features)


def _training_clip(labelled: LabelledVideos, spec: ViewSpec, seed: int, epoch: int, video: int):
    info = labelled.info(video)
    return plan_training_clip(spec, info, labelled.source.grid, seed=seed, epoch=epoch, video=video)


def run_linear(config: LinearConfig, world: World) -> dict[str, Any]:
    """The linear classifier of every fold, and beside it what the shape of the frames alone tells."""
    frozen = open_frozen(config, world)
    train = _training_features(frozen, config)
    probabilities = frozen.classify(lambda fit, test: linear_probabilities(frozen, config, train, fit, test))
    shapes = frozen.classify(lambda fit, test: shape_probabilities(frozen.labelled, fit, test))
    result = frozen.result("linear") | classification(frozen.labelled, frozen.folds, probabilities, config.seed)
    shape = classification(frozen.labelled, frozen.folds, shapes, config.seed)
    return result | {"shape_probe": {name: shape[name] for name in ("top1", "interval")}}


def run_lowshot(config: LowShotConfig, world: World) -> dict[str, Any]:
    """The linear classifier on each share of the training videos."""
    if not config.shares or not all(0 < share <= 1 for share in config.shares):
        raise ConfigError(f"--shares {' '.join(map(str, config.shares))}: each is above 0 and at most 1.")
    frozen = open_frozen(config, world)
    train, labelled = _training_features(frozen, config), frozen.labelled
    whole, rows = frozen.folds, []
    for share in sorted(set(config.shares)):
        for draw in range(config.subsets if share < 1 else 1):
            seed = config.seed + draw
            frozen.folds = [
                fold._replace(train=low_shot_subset(fold.train, labelled.labels, share, seed)) for fold in whole
            ]
            found = frozen.classify(lambda fit, test: linear_probabilities(frozen, config, train, fit, test))
            row = classification(labelled, frozen.folds, found, config.seed)
            del row["confusion"], row["classes"]
            name = f"{100 * share:g} %, subset {seed}"
            rows.append({"name": name, "share": share, "subset": seed, "num_train": row["folds"][0]["train"]} | row)
    return frozen.result("lowshot") | {"rows": rows}


def _training_features(frozen: Frozen, config: LinearConfig) -> np.ndarray:
    """(N, V, D): those of the test views, or of augmented clips."""
    if not config.augmented_views:
        return frozen.features
    labelled, spec = frozen.labelled, frozen.spec
    videos = frozen.usable(np.unique(np.concatenate([fold.train for fold in frozen.folds])))

    def plan(video: int):
        return [
            _training_clip(labelled, spec, config.seed, epoch, video) for epoch in range(1, config.augmented_views + 1)
        ]

    name = f"{config.augmented_views} augmented, seed {config.seed}"
    extraction = Extraction(frozen.backbone, labelled, spec, plan, name, videos)
    features = extract(extraction, config.features, features_folder(config), frozen.world)
    frozen.folds = make_folds(config.split, labelled)  # a video may have turned out to be damaged where no view was
    return features


def linear_probabilities(
    frozen: Frozen, config: LinearConfig, train: np.ndarray, fit: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Train on some videos, and give (m, K) probabilities of others.

    Args:
        train: (N, V, D) features that training takes.
    """
    labels, device = frozen.labelled.labels, frozen.world.device
    average = config.average
    if average == "auto":
        average = "features" if config.recipe == "lbfgs" else "softmax"
    samples, tested = train[fit], frozen.features[test]
    if average == "features":
        samples, tested = samples.mean(axis=1, keepdims=True), tested.mean(axis=1, keepdims=True)
    if config.recipe == "lbfgs":
        flat = samples.reshape(-1, samples.shape[-1])
        classifier = fit_lbfgs(flat, np.repeat(labels[fit], samples.shape[1]), config.lbfgs, device)
    else:
        classifier = fit_sgd(samples, labels[fit], config.sgd, device, config.seed)
    return classifier.probabilities(tested, len(frozen.labelled.classes)).mean(axis=1)


def run_knn(config: KnnEvaluationConfig, world: World) -> dict[str, Any]:
    frozen = open_frozen(config, world)
    means, labels, num_classes = frozen.means(), frozen.labelled.labels, len(frozen.labelled.classes)
    probabilities = frozen.classify(
        lambda fit, test: knn_probabilities(
            means[test], means[fit], labels[fit], num_classes, config.knn, frozen.world.device
        )
    )
    return frozen.result("knn") | classification(frozen.labelled, frozen.folds, probabilities, config.seed)


def run_retrieval(config: RetrievalConfig, world: World) -> dict[str, Any]:
    frozen = open_frozen(config, world)
    means, labels = frozen.means(), frozen.labelled.labels

    def hits(fold: Fold) -> np.ndarray:
        places = np.full(len(fold.test), len(frozen.labelled), dtype=np.int64)  # an odd video finds nothing
        tested = frozen.usable(fold.test)
        found = first_hits(means[tested], labels[tested], means[fold.train], labels[fold.train], world.device)
        places[np.isin(fold.test, tested)] = np.where(found == len(fold.train), len(frozen.labelled), found)
        return places

    places = frozen.over_folds(hits)
    videos, all_places = np.concatenate([fold.test for fold in frozen.folds]), np.concatenate(places)
    result = frozen.result("retrieval")
    scored = accuracies(frozen.labelled, videos, all_places, config.seed)
    result |= {name: scored[name] for name in ("num_test", "num_odd", "interval")}
    result |= {f"R@{k}": float((all_places < k).mean()) for k in sorted(config.ks)}
    result["videos"] = [
        {"video": frozen.labelled.names[video], "first_hit": int(place)}
        for video, place in zip(videos, all_places, strict=True)
    ]
    return result
