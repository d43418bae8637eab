"""The evaluations of a frozen backbone: linear, low-shot, kNN and retrieval."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modist_fast.errors import ConfigError
from modist_fast.evaluation.classifier_file import SavedClassifier
from modist_fast.evaluation.data.splits import Fold, low_shot_subset
from modist_fast.evaluation.frozen.beside import read_beside
from modist_fast.evaluation.frozen.config import (
    KnnEvaluationConfig,
    LinearConfig,
    LowShotConfig,
    RetrievalConfig,
)
from modist_fast.evaluation.frozen.features import Extraction
from modist_fast.evaluation.frozen.linear import Linear, fit_lbfgs, fit_sgd
from modist_fast.evaluation.frozen.neighbours import first_hits, knn_probabilities
from modist_fast.evaluation.frozen.session import Frozen, Progress, frozen_features, open_frozen, training_clip
from modist_fast.evaluation.frozen.shape_probe import CUES, shape_probabilities
from modist_fast.evaluation.results import accuracies, classification, ranks_of_truth
from modist_fast.host.distributed import World
from modist_pipelines.plan import ClipPlan
from modist_pipelines.progress import Progressing

log = logging.getLogger("modist")


def run_linear(config: LinearConfig, world: World, progress: Progress | None = None) -> dict[str, Any]:
    """The linear classifier of every fold, and beside it what the shape of the frames alone tells."""
    frozen, train = _with_training_features(_with_beside(open_frozen(config, world, progress), config), config)
    labelled, odd, folds = frozen.labelled, frozen.odd, frozen.counted()
    fitted: list[Linear] = []

    def scored(fit: np.ndarray, test: np.ndarray) -> np.ndarray:
        fitted.append(fit_linear(frozen, config, train, fit))
        return linear_probabilities(frozen, config, fitted[-1], test)

    probabilities = frozen.classify(folds, scored)
    if world.is_main:
        if len(folds) > 1:  # each fold's classifier has seen a part: the one that is kept has seen all
            videos = np.unique(
                np.concatenate([video for fold in folds for video in (fold.train, frozen.usable(fold.test))])
            )
            fitted.append(fit_linear(frozen, config, train, videos))
        # Such a net is not kept, or sees only a part of the features: nothing could be shown to it again.
        if not frozen.backbone.is_random and config.beside is None:
            _save(frozen, config, fitted[-1])
    result = frozen.result("linear") | classification(labelled, odd, folds, probabilities, config.seed)
    return result | {"shape_probe": _shape_probe(frozen, folds, result["chance"])}


def _shape_probe(frozen: Frozen, folds: Sequence[Fold], chance: float) -> dict[str, Any]:
    """What the shape of the frames tells; above chance, also what each of its cues does alone."""
    labelled, videos = frozen.labelled, np.concatenate([fold.test for fold in folds])

    def scored(cues: Sequence[str]) -> dict[str, Any]:
        found = frozen.classify(folds, lambda fit, test: shape_probabilities(labelled, fit, test, cues))
        ranks = ranks_of_truth(np.concatenate(found), labelled.labels[videos])
        return accuracies(labelled, frozen.odd, videos, ranks, frozen.config.seed)

    whole = scored(CUES)
    alone = {cue: scored([cue])["top1"] for cue in CUES} if whole["top1"] > chance else {}
    return {"top1": whole["top1"], "interval": whole["interval"], "cues": alone}


def run_lowshot(config: LowShotConfig, world: World) -> dict[str, Any]:
    """The linear classifier on each share of the training videos."""
    if not config.shares:
        raise ConfigError("--shares: at least one, above 0 and at most 1.")
    frozen, train = _with_training_features(_with_beside(open_frozen(config, world), config), config)
    labelled, whole, rows = frozen.labelled, frozen.counted(), []
    draws = [
        (share, draw) for share in sorted(set(config.shares)) for draw in range(config.subsets if share < 1 else 1)
    ]
    with Progressing("low-shot", len(draws), "subsets", world.is_main) as progress:
        for share, draw in draws:
            progress.at(len(rows) + 1, f"{100 * share:g} % of the training videos", begun=True)
            seed = config.seed + draw
            folds = [fold._replace(train=low_shot_subset(fold.train, labelled.labels, share, seed)) for fold in whole]
            found = frozen.classify(
                folds,
                lambda fit, test: linear_probabilities(frozen, config, fit_linear(frozen, config, train, fit), test),
                shown=False,
            )
            row = classification(labelled, frozen.odd, folds, found, config.seed)
            del row["confusion"], row["classes"]
            name = f"{100 * share:g} %, subset {seed}"
            rows.append({"name": name, "share": share, "subset": seed, "num_train": row["folds"][0]["train"]} | row)
            if world.is_main:
                log.info("%s: top-1 %.1f %%", name, 100 * row["top1"])
    return frozen.result("lowshot") | {"rows": rows}


def _with_beside(frozen: Frozen, config: LinearConfig) -> Frozen:
    """With the features of --beside; videos that it lacks are odd."""
    if config.beside is None:
        if config.beside_alone:
            raise ConfigError("--beside-alone needs features to take: pass --beside FILE, or leave it out.")
        return frozen
    if config.augmented_views:
        raise ConfigError("--beside has features of whole videos, not of augmented views: leave out one of the two.")
    beside = read_beside(config.beside, frozen.labelled.names)
    lacking = {
        int(video): f"--beside {config.beside.name} has no features of it"
        for video in np.flatnonzero(~np.isfinite(beside).all(axis=1))
    }
    if lacking:
        log.warning("WARNING: %d videos are not in %s: they count as odd.", len(lacking), config.beside)
    repeated = np.repeat(beside[:, None], frozen.features.shape[1], axis=1)
    features = repeated if config.beside_alone else np.concatenate([frozen.features, repeated], axis=-1)
    return replace(frozen, features=features, odd=lacking | dict(frozen.odd))


def _with_training_features(frozen: Frozen, config: LinearConfig) -> tuple[Frozen, np.ndarray]:
    """(N, V, D) to train on, of the test views or of augmented clips; and what now is known to be odd."""
    if not config.augmented_views:
        return frozen, frozen.features
    labelled, spec = frozen.labelled, frozen.spec
    videos = np.unique(np.concatenate([fold.train for fold in frozen.counted()]))

    def plan(video: int) -> list[ClipPlan]:
        return [
            training_clip(labelled, spec, config.seed, epoch, video) for epoch in range(1, config.augmented_views + 1)
        ]

    name = f"{config.augmented_views} augmented, seed {config.seed}"
    extraction = Extraction(frozen.backbone, labelled, spec, plan, name, videos)
    features, damaged = frozen_features(extraction, config, frozen.world)
    return replace(frozen, odd={**frozen.odd, **damaged}), features  # where no view was damaged, a clip may be


def fit_linear(frozen: Frozen, config: LinearConfig, train: np.ndarray, fit: np.ndarray) -> Linear:
    """Train on some videos.

    Args:
        train: (N, V, D) features that training takes.
        fit: (n,) videos.
    """
    labels, device, samples = frozen.labelled.labels, frozen.world.device, train[fit]
    if _average(config) == "features":
        samples = samples.mean(axis=1, keepdims=True)
    if config.recipe == "lbfgs":
        flat = samples.reshape(-1, samples.shape[-1])
        return fit_lbfgs(flat, np.repeat(labels[fit], samples.shape[1]), config.lbfgs, device)
    return fit_sgd(samples, labels[fit], config.sgd, device, config.seed)


def linear_probabilities(frozen: Frozen, config: LinearConfig, fitted: Linear, test: np.ndarray) -> np.ndarray:
    """(m, K) probabilities of (m,) videos."""
    tested = frozen.features[test]
    if _average(config) == "features":
        tested = tested.mean(axis=1, keepdims=True)
    return fitted.probabilities(tested, len(frozen.labelled.classes)).mean(axis=1)


def _average(config: LinearConfig) -> str:
    if config.average == "auto":
        return "features" if config.recipe == "lbfgs" else "softmax"
    return config.average


def _save(frozen: Frozen, config: LinearConfig, fitted: Linear) -> None:
    """OUT/linear.safetensors, for `modist predict`."""
    classes, backbone = frozen.labelled.classes, config.network.backbone
    weight, bias = fitted.on_features(len(classes))
    path, digest = str(Path(backbone).absolute()), frozen.backbone.digest()
    found = SavedClassifier(weight, bias, classes, fitted.unit, _average(config), path, digest, config.views)
    config.out.mkdir(parents=True, exist_ok=True)
    found.write(config.out)


def run_knn(config: KnnEvaluationConfig, world: World, progress: Progress | None = None) -> dict[str, Any]:
    frozen = open_frozen(config, world, progress)
    means, labels, num_classes = frozen.means(), frozen.labelled.labels, len(frozen.labelled.classes)
    folds = frozen.counted()
    probabilities = frozen.classify(
        folds,
        lambda fit, test: knn_probabilities(
            means[test], means[fit], labels[fit], num_classes, config.knn, frozen.world.device
        ),
    )
    return frozen.result("knn") | classification(frozen.labelled, frozen.odd, folds, probabilities, config.seed)


def run_retrieval(config: RetrievalConfig, world: World) -> dict[str, Any]:
    frozen = open_frozen(config, world)
    means, labels = frozen.means(), frozen.labelled.labels

    def hits(fold: Fold) -> np.ndarray:
        places = np.full(len(fold.test), len(frozen.labelled), dtype=np.int64)  # an odd video finds nothing
        tested = frozen.usable(fold.test)
        found = first_hits(means[tested], labels[tested], means[fold.train], labels[fold.train], world.device)
        places[np.isin(fold.test, tested)] = np.where(found == len(fold.train), len(frozen.labelled), found)
        return places

    folds = frozen.counted()
    videos, all_places = np.concatenate([fold.test for fold in folds]), np.concatenate(frozen.over_folds(folds, hits))
    result = frozen.result("retrieval")
    scored = accuracies(frozen.labelled, frozen.odd, videos, all_places, config.seed)
    result |= {name: scored[name] for name in ("num_test", "num_odd", "interval")}
    result |= {f"R@{k}": float((all_places < k).mean()) for k in sorted(config.ks)}
    result["videos"] = [
        {"video": frozen.labelled.names[video], "first_hit": int(place)}
        for video, place in zip(videos, all_places, strict=True)
    ]
    return result
