"""Fine-tuning and the supervised baseline: a classifier for each fold, trained as a whole and tested on all views."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import OpenedBackbone, digest_of, open_backbone
from modist_fast.evaluation.classifier_file import NAME, SavedClassifier
from modist_fast.evaluation.data.labelled import LabelledVideos, open_labelled
from modist_fast.evaluation.data.splits import (
    Fold,
    counted,
    learnable,
    low_shot_subset,
    make_folds,
    refuse_leaks,
    refuse_unlearnable,
)
from modist_fast.evaluation.data.views import ViewsConfig, ViewSpec
from modist_fast.evaluation.finetune.classifier import Classifier, LabelledNet
from modist_fast.evaluation.finetune.config import FinetuneConfig, SupervisedConfig, check
from modist_fast.evaluation.finetune.samples import SampleOrder, TrainingClips
from modist_fast.evaluation.finetune.scores import view_probabilities
from modist_fast.evaluation.finetune.training import ClassifierStep, LabelledTraining, Trained
from modist_fast.evaluation.frozen.session import describe
from modist_fast.evaluation.results import classification
from modist_fast.host.allocator import keep_freed_memory
from modist_fast.host.distributed import World, on_main
from modist_fast.host.processes import allowed_cores
from modist_fast.run.beginning import claim
from modist_fast.run.export import export_backbone, refuse_flaw
from modist_fast.run.files import FINETUNING, traces
from modist_fast.run.options import plain

log = logging.getLogger("modist")
_OF_A_SHARE = ("num_test", "num_odd", "top1", "top5", "interval", "interval_over_groups", "folds", "training", "videos")


@dataclass(frozen=True)
class _Opened:
    config: FinetuneConfig
    world: World
    backbone: OpenedBackbone
    spec: ViewSpec
    labelled: LabelledVideos


def run_finetune(config: FinetuneConfig, world: World) -> dict[str, Any]:
    """Train and test a classifier for each fold; with `shares`, on each share of the training videos.

    Returns:
        The result, JSON-ready.

    Raises:
        ConfigError, DataError: what the user can mend.
        Interrupted: a signal ended the training first.
    """
    check(config, world.size)
    return _run_shares(config, world) if config.shares else _run(config, world)


def _run_shares(config: FinetuneConfig, world: World) -> dict[str, Any]:
    rows, header = [], {}
    for share in config.shares:
        out = config.out / "shares" / f"{share:g}"
        found = _run(replace(config, shares=(), fraction=share, out=out), world)
        row = {name: value for name, value in found.items() if name in _OF_A_SHARE}
        header = {name: value for name, value in found.items() if name not in (*_OF_A_SHARE, "classes", "confusion")}
        rows.append({"name": f"{100 * share:g} %", "share": share, "num_train": row["training"][0]["videos"]} | row)
    return header | {"options": plain(dataclasses.asdict(config)), "rows": rows}


def _run(config: FinetuneConfig, world: World) -> dict[str, Any]:
    memory = keep_freed_memory(world.device)
    if world.is_main:
        log.info("CPU: %s; memory: %s", allowed_cores(world.device), memory)
    backbone = _first_weights(config)
    spec = backbone.views(config.views)
    labelled = open_labelled(config.data, spec.stride, world.device, config.num_threads)
    spec.plan_config(labelled.source.grid)  # whether the stride fits the store, before anything expensive
    folds = counted(make_folds(config.split, labelled), labelled.odd, labelled.when_tested)
    leaks = refuse_leaks(config.split, folds, labelled)
    unlearnable = refuse_unlearnable(config.split, folds, labelled)
    folds = learnable(config.split, folds, labelled)
    opened = _Opened(config, world, backbone, spec, labelled)
    _refuse_to_remove_first_weights(config)
    claim(config.out, config, world, FINETUNING)
    odd, probabilities, rows = dict(labelled.odd), [], []
    for number, fold in enumerate(folds):
        out = config.out if len(folds) == 1 else config.out / "folds" / f"{number:03d}"
        table, damaged, row = _run_fold(opened, fold, out)
        odd |= damaged
        probabilities.append(table)
        rows.append(row)
    header = describe(task_of(config), config, backbone, spec, labelled, odd, leaks)
    tested = counted(folds, odd, labelled.when_tested)
    kept = [
        table[np.isin(before.test, after.test)]
        for before, after, table in zip(folds, tested, probabilities, strict=True)
    ]
    scored = classification(labelled, odd, tested, kept, config.seed)
    return header | {"training": rows, "unlearnable": unlearnable} | scored


def task_of(config: FinetuneConfig) -> str:
    """The command that a configuration belongs to."""
    return "supervised" if isinstance(config, SupervisedConfig) else "finetune"


def _first_weights(config: FinetuneConfig) -> OpenedBackbone:
    backbone = open_backbone(config.network, config.seed)
    if backbone.is_random:
        # As a baseline of features, random residual branches are whole. Training begins with branches that are nothing.
        backbone.net.scale_residuals(0.0)
    return backbone


def _refuse_to_remove_first_weights(config: FinetuneConfig) -> None:
    out, source = config.out.resolve(), Path(config.network.backbone.removeprefix("random:")).resolve()
    if not config.overwrite or not source.is_relative_to(out):
        return
    if any(source in (path, *path.parents) for path in traces(out, FINETUNING)):
        raise ConfigError(
            f"--overwrite would remove --backbone {config.network.backbone} with the run in --out {config.out}. Choose "
            "another --out."
        )


def _run_fold(opened: _Opened, fold: Fold, out: Path) -> tuple[np.ndarray, dict[int, str], dict[str, Any]]:
    """Of the test videos the probabilities, and which turned out damaged; what training came to."""
    config, world, labelled = opened.config, opened.world, opened.labelled
    train = low_shot_subset(fold.train, labelled.labels, config.fraction, config.seed)
    if len(np.unique(labelled.labels[train])) < 2:
        raise ConfigError(
            f"the training part of {fold.name} has videos of one class only: nothing to tell apart. "
            "Look at the column of labels, and at --train-where."
        )
    order = SampleOrder(train, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed)
    if world.is_main:
        log.info("%s: %d videos train, %d test; %d steps", fold.name, len(train), len(fold.test), order.num_steps)
    clips = TrainingClips(
        labelled,
        opened.spec,
        config.augmentation,
        order,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        num_threads=config.num_threads,
    )
    torch.manual_seed(config.seed)
    # Each fold begins with the same weights: its own copy.
    model = Classifier(_first_weights(config).net, len(labelled.classes), config.dropout, config.frozen)
    step = ClassifierStep(config, world, model)
    training = LabelledTraining(config, world, step, order, clips, out, _fingerprint(opened, train))
    trained = training.run()
    on_main(world, lambda: _export(opened, trained, model, out))
    model.eval()
    spec = opened.spec.at_test()
    table, odd = view_probabilities(
        lambda clips: step.at_places(clips, spec.window), labelled, spec, fold.test, world, config.num_threads
    )
    damaged = _gather(trained.damaged, world)
    row = {"fold": fold.name, "videos": len(train), "steps": trained.steps}
    row["damaged"] = [{"video": labelled.names[video], "reason": reason} for video, reason in sorted(damaged.items())]
    return table, odd, row


def _gather(mine: Mapping[int, str], world: World) -> dict[int, str]:
    everyone: list[Mapping[int, str]] = [{}] * world.size
    dist.all_gather_object(everyone, mine)
    return {video: reason for part in everyone for video, reason in part.items()}


def _fingerprint(opened: _Opened, train: np.ndarray) -> str:
    """What training depends on beside its options: videos, labels, the part that trains, the first weights."""
    labelled = opened.labelled
    digest = hashlib.sha256(f"{labelled.fingerprint()} {opened.backbone.digest()} {labelled.classes}".encode())
    digest.update(labelled.labels.tobytes() + train.astype(np.int64).tobytes())
    return digest.hexdigest()


def _export(opened: _Opened, trained: Trained, model: Classifier, out: Path) -> None:
    classes = opened.labelled.classes
    trained_on = f"{task_of(opened.config)} on {len(classes)} classes, from {opened.backbone.origin}"
    export_trained(
        model, opened.backbone.card, opened.spec, trained_on, trained.steps, classes, out, opened.config.views
    )


def export_trained(
    model: LabelledNet,
    card: Mapping[str, Any],
    spec: ViewSpec,
    trained_on: str,
    steps: int,
    classes: Sequence[str],
    out: Path,
    views: ViewsConfig | None = None,
) -> None:
    """OUT/backbone.safetensors with its card, and OUT/linear.safetensors, for `modist predict` where views are given.

    Args:
        card: of the backbone that training began with.
        trained_on: the task, in words.
    """
    card = {
        **card,
        "crop_size": spec.crop_size,
        "num_frames": spec.num_frames,
        "stride": spec.stride,
        "mean": spec.mean,
        "std": spec.std,
        "trained_on": trained_on,
        "finetune_steps": steps,
    }
    card = {name: value for name, value in card.items() if name not in ("format", "version")}
    linear, path = model.linear, out / "backbone.safetensors"
    refuse_flaw(linear.state_dict(), out / NAME, steps)
    export_backbone(model.backbone, path, card)
    digest = digest_of(model.backbone.state_dict())
    SavedClassifier(linear.weight, linear.bias, classes, False, "softmax", path.name, digest, views).write(out)
