"""One row of bench_pipeline.py, in a process of its own: makes as many samples as it is told to.

    python profiling/modist_profiling/data/worker.py SPEC        (SPEC: JSON, see `StoppedWorker`)

Answers with the counters of those samples.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.plan import Augmentation, ClipSpec, PlanConfig
from modist_pipelines.store.reader import Store
from modist_pipelines.video.index import read_index
from modist_pipelines.video.raw import RawVideos
from modist_profiling.data.peers import MOTION, VISUAL, PeerClips, planned_frames
from modist_profiling.frame.rows import answer_commands

PLAIN = Augmentation(flip=0.0, color=0.0, gray=0.0, blur=0.0)


def ours(spec: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Counters of one batch after another of our loader."""
    source = Store.open(spec["store"]) if spec["row"] == "store" else RawVideos(spec["videos"])
    plan = PlanConfig(
        ClipSpec(*VISUAL),
        ClipSpec(*MOTION),
        spec["crop_size"],
        grid=source.grid,
        motion_threshold=0.0,
        augmentation=Augmentation() if spec["augment"] else PLAIN,
        motion_input="edges" if spec["row"] == "store" else "difference",
    )
    loader = ClipLoader(source, plan, batch_size=spec["batch_size"], seed=0, num_threads=1, prefetch=1)
    for batch in loader.iterate(0, 1 << 40):
        yield {**batch.counters, "samples": spec["batch_size"]}


def peer(spec: dict[str, Any]) -> Iterator[dict[str, float]]:
    """The same of a DataLoader around a peer's Dataset."""
    videos = [Path(spec["videos"], name) for name in spec["names"]]
    indexes = [read_index(video, 30.0) for video in videos]
    lengths = [len(index.pts) for index in indexes if index is not None]
    dataset = PeerClips(videos, lengths, spec["row"], spec["augment"], spec["crop_size"])
    size = spec["batch_size"]
    sizes = [video.stat().st_size for video in videos]
    workers: dict[str, Any] = {"num_workers": spec["workers"]}
    if spec["workers"]:
        workers |= {"persistent_workers": True, "prefetch_factor": 1}
    for number, _ in enumerate(DataLoader(dataset, batch_size=size, shuffle=False, **workers)):
        counters: Counter[str] = Counter(samples=size)
        for index in range(number * size, (number + 1) * size):
            video, clips = planned_frames(index, lengths)
            frames = sorted({int(frame) for clip in clips for frame in clip})
            known = indexes[video]
            assert known is not None
            counters["frames_used"] += sum(map(len, clips))
            counters["frames_decoded"] += num_decoded(spec["row"], known, frames)
            counters["bytes_read"] += sizes[video]
            counters["bytes_needed"] += round(sizes[video] * len(frames) / lengths[video])
        yield dict(counters)


def num_decoded(row: str, index: Any, frames: list[int]) -> int:
    """Frames that a library decodes, by the key frames of the file: it may enter at each, or only at the first."""
    if row in ("pyav", "opencv"):
        key, _ = index.runs(frames[:1])[0]
        return int(index.order[frames].max() - index.order[key]) + 1
    return index.num_decoded(frames)


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    batches = ours(spec) if spec["row"] in ("store", "raw") else peer(spec)
    next(batches)  # what is slow once

    def turn(samples: int) -> Counter[str]:
        done: Counter[str] = Counter()
        while done["samples"] < samples:
            done.update(next(batches))
        return done

    answer_commands({}, turn)


if __name__ == "__main__":
    main()
