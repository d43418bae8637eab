"""The detector at test: every box of every keyframe, on the whole frame."""

from collections import defaultdict

import numpy as np
import torch
import torch.distributed as dist

from modist_fast.evaluation.ava.annotations import Keyframe
from modist_fast.evaluation.ava.keyframes import Keyframes, boxes_in_clip, plan_whole_keyframe, shaped, whole_shape
from modist_fast.evaluation.ava.training import DetectorStep
from modist_fast.evaluation.data.views import ViewSpec
from modist_fast.host.distributed import World
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.plan import ClipPlan
from modist_pipelines.progress import Progressing


@torch.inference_mode()
def detect(
    step: DetectorStep, keyframes: Keyframes, spec: ViewSpec, short_side: int, world: World, num_threads: int
) -> tuple[dict[Keyframe, tuple[np.ndarray, np.ndarray]], dict[Keyframe, str]]:
    """The probability of each action for each box; every rank does its share and gets them all.

    Returns:
        Keyframe to (n, 4) boxes as they were given and (n, K) float64, in the order of the keyframes; and those that
        cannot be read, to the reason.
    """
    step.model.eval()
    videos = keyframes.videos
    grid = videos.source.grid
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for item in range(world.rank, len(keyframes), world.size):
        by_shape[whole_shape(short_side, videos.info(item))].append(item)
    found: dict[int, np.ndarray] = {}
    damaged: dict[int, str] = {}
    with Progressing("test", sum(map(len, by_shape.values())), "keyframes", world.is_main) as progress:
        for shape, items in by_shape.items():
            plans = {item: whole_plan(keyframes, spec, item) for item in items}
            requests = [Request(item, int(videos.rows[item]), [plans[item]]) for item in items]
            with ClipReader(videos.source, shaped(spec, grid, shape), world.device, num_threads) as reader:
                for item, clips in reader.read(requests):
                    progress.begin()
                    if isinstance(clips, str):
                        damaged[item] = clips
                        continue
                    boxes = boxes_in_clip(keyframes.boxes[item].places, videos.info(item), plans[item], shape)
                    found[item] = step.forward(clips["visual"], [boxes]).double().sigmoid().numpy(force=True)
    everyone: list[tuple[dict[int, np.ndarray], dict[int, str]]] = [({}, {})] * world.size
    dist.all_gather_object(everyone, (found, damaged))
    tables = {item: table for part, _ in everyone for item, table in part.items()}
    broken = {item: reason for _, part in everyone for item, reason in part.items()}
    detected = {keyframes.keyframes[item]: (keyframes.boxes[item].places, tables[item]) for item in sorted(tables)}
    return detected, {keyframes.keyframes[item]: reason for item, reason in sorted(broken.items())}


def whole_plan(keyframes: Keyframes, spec: ViewSpec, item: int) -> ClipPlan:
    """The test clip of a keyframe."""
    videos = keyframes.videos
    return plan_whole_keyframe(spec, videos.info(item), videos.source.grid, int(keyframes.centers[item]))
