"""What the options of `modist evaluate ava` name: boxes, classes, and the frames about their keyframes."""

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modist_fast.errors import ConfigError
from modist_fast.evaluation.ava.annotations import Boxes, Keyframe, read_boxes, read_classes, read_excluded
from modist_fast.evaluation.ava.config import AvaConfig, AvaDataConfig
from modist_fast.evaluation.ava.keyframes import Keyframes, find_keyframes, without
from modist_fast.evaluation.backbones import OpenedBackbone
from modist_fast.host.distributed import World
from modist_pipelines.source import ClipSource
from modist_pipelines.store.reader import Store
from modist_pipelines.video.frame_lists import FrameLists
from modist_pipelines.video.raw import RawVideos

log = logging.getLogger("modist")


@dataclass(frozen=True)
class OpenedAva:
    """What the options name."""

    classes: dict[int, str]
    truth: dict[Keyframe, Boxes]
    train: Keyframes
    test: Keyframes

    def fingerprint(self, backbone: OpenedBackbone) -> str:
        digest = hashlib.sha256(f"{self.train.videos.fingerprint()} {backbone.digest()}".encode())
        for boxes in self.train.boxes:
            digest.update(boxes.places.tobytes() + boxes.actions.tobytes())
        return digest.hexdigest()


def open_ava(config: AvaConfig, world: World) -> OpenedAva:
    """Read AVA's files and open the source of their frames.

    Raises:
        ConfigError, DataError: a file of another form, no keyframe, a video on both sides.
    """
    data = config.data
    assert data.test_truth is not None
    assert data.classes is not None
    classes = read_classes(data.classes, data.num_actions)
    excluded = read_excluded(data.excluded)
    train_boxes: dict[Keyframe, Boxes] = {}
    if data.train_boxes:
        train_boxes |= read_boxes(data.train_boxes, data.num_actions)
    if data.train_predicted_boxes:
        predicted = read_boxes(data.train_predicted_boxes, data.num_actions, data.min_score)
        train_boxes = _joined(train_boxes, predicted)
    truth = without(read_boxes([data.test_truth], data.num_actions), excluded)
    if not truth:
        raise ConfigError(
            f"--test-truth {data.test_truth} has no keyframe that counts. "
            "Give the truth of AVA's own form, and look at --excluded."
        )
    test_boxes = truth
    if data.test_boxes is not None:
        test_boxes = without(read_boxes([data.test_boxes], data.num_actions, data.min_score), excluded)
    both = {video for video, _ in train_boxes} & {video for video, _ in truth}
    if both:
        raise ConfigError(
            f"{len(both)} videos, such as {min(both)}, are in the boxes of training and in --test-truth: the mAP would "
            "tell of what was learned by heart. "
            "Remove them from one of the two files."
        )
    source, refused = _source(data, math.gcd(2, config.stride), world, config.num_threads)
    train = find_keyframes(source, without(train_boxes, excluded), data.start_second, refused)
    test = find_keyframes(source, test_boxes, data.start_second, refused)
    if world.is_main:
        for (video, second), reason in {**train.odd, **test.odd}.items():
            log.warning("odd keyframe: %s %d: %s", video, second, reason)
    return OpenedAva(classes, truth, train, test)


def _joined(first: Mapping[Keyframe, Boxes], second: Mapping[Keyframe, Boxes]) -> dict[Keyframe, Boxes]:
    together = dict(first)
    for keyframe, boxes in second.items():
        before = together.get(keyframe)
        together[keyframe] = (
            boxes
            if before is None
            else Boxes(
                np.concatenate([before.places, boxes.places]),
                np.concatenate([before.actions, boxes.actions]),
                np.concatenate([before.scores, boxes.scores]),
            )
        )
    return together


def _source(data: AvaDataConfig, grid: int, world: World, num_threads: int) -> tuple[ClipSource, Mapping[str, str]]:
    """Where the frames come from, and which of its videos cannot be used."""
    if data.store is not None:
        store = Store.open(data.store)
        return store, store.quarantine()
    if data.frames is not None:
        lists = FrameLists(data.frames, data.frame_lists)
        return lists, lists.refused
    assert data.videos is not None
    videos = RawVideos(
        data.videos, grid=grid, device=str(world.device), num_threads=num_threads, frames_fps=data.frames_fps
    )
    return videos, videos.refused
