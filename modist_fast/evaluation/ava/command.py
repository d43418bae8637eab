"""`modist evaluate ava`: open everything, train the detector, classify the boxes, count."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from modist_fast.batch_norm import CALIBRATION_BATCH, CALIBRATION_CLIPS, calibrate
from modist_fast.errors import ConfigError
from modist_fast.evaluation.ava.annotations import Boxes, Keyframe
from modist_fast.evaluation.ava.average_precision import Curve, curves, mean_average_precision
from modist_fast.evaluation.ava.config import AvaConfig, check_ava
from modist_fast.evaluation.ava.detection import detect, whole_plan
from modist_fast.evaluation.ava.detector import Detector
from modist_fast.evaluation.ava.keyframes import shaped, whole_shape
from modist_fast.evaluation.ava.opening import OpenedAva, open_ava
from modist_fast.evaluation.ava.pictures import Shown, frame_of, save_curves, save_keyframes
from modist_fast.evaluation.ava.training import DetectorStep, KeyframeClips
from modist_fast.evaluation.backbones import OpenedBackbone, open_backbone
from modist_fast.evaluation.data.views import ViewsConfig, ViewSpec, resolve_views
from modist_fast.evaluation.finetune.run import export_trained
from modist_fast.evaluation.finetune.samples import SampleOrder
from modist_fast.evaluation.finetune.training import LabelledTraining
from modist_fast.evaluation.frozen.session import describe
from modist_fast.host.distributed import World, on_main
from modist_fast.host.whole_file import whole_file
from modist_fast.models import Backbone
from modist_fast.run.beginning import claim
from modist_fast.run.files import FINETUNING
from modist_pipelines.clips.reader import ClipReader, Request

log = logging.getLogger("modist")
_SHOWN = 6  # keyframes of the picture
_RANDOM_DRAWS = 5


def run_ava(config: AvaConfig, world: World) -> dict[str, Any]:
    """Train an action detector and test it.

    Returns:
        The result, JSON-ready.

    Raises:
        ConfigError, DataError: what the user can mend.
        Interrupted: a signal ended the training first.
    """
    check_ava(config, world.size)
    backbone = open_backbone(config.network, config.seed)
    views = ViewsConfig(
        temporal=1, spatial=1, num_frames=config.num_frames, stride=config.stride, crop_size=config.crop_size
    )
    spec = resolve_views(views, backbone.card)
    opened = open_ava(config, world)
    spec.plan_config(opened.train.videos.source.grid)  # whether the stride fits the store
    claim(config.out, config, world, FINETUNING)
    order = SampleOrder(
        np.arange(len(opened.train)), batch_size=config.batch_size, epochs=config.epochs, seed=config.seed
    )
    clips = KeyframeClips(
        opened.train,
        spec,
        config.flip,
        order,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        num_threads=config.num_threads,
    )
    torch.manual_seed(config.seed)
    model = Detector(
        _first_weights(config, world, backbone, clips), config.data.num_actions, config.dropout, config.frozen
    )
    step = DetectorStep(config, world, model, clips.targets)
    if world.is_main:
        num_boxes = sum(map(len, opened.train.boxes))
        log.info("%d keyframes with %d boxes train; %d steps", len(opened.train), num_boxes, order.num_steps)
    training = LabelledTraining(
        config, world, step, order, clips, config.out, opened.fingerprint(backbone), has_top1=False
    )
    trained = training.run()
    names = [opened.classes.get(action, "") for action in range(1, config.data.num_actions + 1)]
    trained_on = f"ava on {len(opened.classes)} actions, from {backbone.origin}"
    on_main(world, lambda: export_trained(model, backbone.card, spec, trained_on, trained.steps, names, config.out))
    detected, damaged = detect(step, opened.test, spec, config.short_side, world, config.num_threads)
    if world.is_main:
        for (video, second), reason in damaged.items():
            log.warning("odd keyframe: %s %d: %s", video, second, reason)
    found = curves(opened.truth, detected, opened.classes)
    if not found:
        raise ConfigError(
            f"--test-truth {config.data.test_truth}: none of the actions in --classes is shown there. "
            "Give the list of classes that it was made with."
        )
    if world.is_main:
        _write_detections(config.out / "detections.csv", detected, opened.classes)
        save_curves(config.out / "curves.png", found, opened.classes, mean_average_precision(found))
        _draw(config, spec, world, opened, detected)
    header = describe("ava", config, backbone, spec, opened.test.videos, {}, [])
    odd = [
        {"video": f"{video} {second}", "label": "", "reason": reason}
        for (video, second), reason in {**opened.train.odd, **opened.test.odd, **damaged}.items()
    ]
    row = {
        "keyframes": len(opened.train),
        "boxes": sum(map(len, opened.train.boxes)),
        "steps": trained.steps,
        "damaged": sorted(trained.damaged.values()),
    }
    return header | {"odd_videos": "missed", "odd": odd, "training": row} | _scores(config, opened, detected, found)


def _scores(
    config: AvaConfig,
    opened: OpenedAva,
    detected: Mapping[Keyframe, tuple[np.ndarray, np.ndarray]],
    found: Mapping[int, Curve],
) -> dict[str, Any]:
    """The mAP, beside that of random scores for the same boxes, and each action's AP."""
    random = np.random.default_rng(config.seed)
    chance = [
        curves(
            opened.truth,
            {keyframe: (boxes, random.random(table.shape)) for keyframe, (boxes, table) in detected.items()},
            opened.classes,
        )
        for _ in range(_RANDOM_DRAWS)
    ]
    return {
        "mAP": mean_average_precision(found),
        "mAP_of_random_scores": float(np.mean([mean_average_precision(draw) for draw in chance])),
        "num_keyframes": len(opened.truth),
        "num_boxes": sum(len(boxes) for boxes, _ in detected.values()),
        "actions": [
            {
                "action": action,
                "name": opened.classes[action],
                "boxes": curve.num_truth,
                "AP": curve.average_precision,
                "AP_of_random_scores": float(np.mean([draw[action].average_precision for draw in chance])),
            }
            for action, curve in found.items()
        ],
        "without_truth": [name for action, name in opened.classes.items() if action not in found],
    }


def _first_weights(config: AvaConfig, world: World, backbone: OpenedBackbone, clips: KeyframeClips) -> Backbone:
    """The backbone, dilated. A random one that learns begins as fine-tuning does; one that does not gets statistics."""
    net = backbone.net.for_detection().eval()
    if backbone.is_random and config.frozen != "all":
        net.scale_residuals(0.0)
    elif backbone.is_random:
        net.to(world.device)
        if world.is_main:
            num_steps = -(-CALIBRATION_CLIPS // config.batch_size) * world.size
            batches = (
                part
                for batch in clips.iterate(0, num_steps)
                for part in batch.clips[batch.labels >= 0].split(CALIBRATION_BATCH)
            )
            calibrate(net, batches)
            log.info("random network: batch norm has the statistics of clips of training")
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)
    return net


def _write_detections(
    path: Path, detected: Mapping[Keyframe, tuple[np.ndarray, np.ndarray]], classes: Mapping[int, str]
) -> None:
    """AVA's format of results: video, second, x1, y1, x2, y2, action, score."""
    with whole_file(path) as half, half.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for (video, second), (boxes, table) in detected.items():
            for box, scores in zip(boxes, table, strict=True):
                place = [f"{value:.3f}" for value in box]
                writer.writerows(
                    [video, f"{second:04d}", *place, action, f"{scores[action - 1]:.6f}"] for action in classes
                )


def _draw(
    config: AvaConfig,
    spec: ViewSpec,
    world: World,
    opened: OpenedAva,
    detected: Mapping[Keyframe, tuple[np.ndarray, np.ndarray]],
) -> None:
    """OUT/keyframes.png: keyframes at equal distances in the test part, of one shape."""
    test = opened.test
    grid, places = test.videos.source.grid, {keyframe: item for item, keyframe in enumerate(test.keyframes)}
    items = [places[keyframe] for keyframe in detected]
    if not items:
        return
    shape = whole_shape(config.short_side, test.videos.info(items[0]))
    items = [item for item in items if whole_shape(config.short_side, test.videos.info(item)) == shape]
    chosen = [items[place] for place in np.unique(np.linspace(0, len(items) - 1, _SHOWN).round().astype(int))]
    shown = []
    requests = [Request(item, int(test.videos.rows[item]), [whole_plan(test, spec, item)]) for item in chosen]
    with ClipReader(test.videos.source, shaped(spec, grid, shape), world.device, config.num_threads) as reader:
        for item, clips in reader.read(requests):
            if isinstance(clips, str):
                continue
            keyframe = test.keyframes[item]
            boxes, table = detected[keyframe]
            truth = opened.truth.get(
                keyframe, Boxes(np.zeros((0, 4)), np.zeros((0, table.shape[1]), bool), np.zeros(0))
            )
            frame = frame_of(clips["visual"][0], spec.mean, spec.std)
            title = f"{keyframe[0]}, second {keyframe[1]}"
            shown.append(Shown(title, frame, boxes, table, truth.places, truth.actions))
    if shown:
        save_keyframes(config.out / "keyframes.png", shown, opened.classes)
