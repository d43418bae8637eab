"""What a process pays to begin with a large store: modist bench index --rows 10000000 --folder FOLDER

The index is made up (its arrays, no frames): as many videos of as many grid frames each, with scores, offsets and
checksums. A process of its own then opens it, chooses the videos with enough motion, and orders two epochs.
"""

import json
import multiprocessing
import shutil
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.presets import modist_r50
from modist_fast.run.options import check_ranges
from modist_pipelines.motion_inputs import find_motion_input
from modist_pipelines.plan import eligible_videos, plan_sample, video_order
from modist_pipelines.ranges import COUNT, ranged
from modist_pipelines.store.columns import ABOUT_NAME, COLUMNS_NAME, NUMBERS, VERSION, array_lengths, index_digest
from modist_pipelines.store.index import index_schema
from modist_pipelines.store.reader import INDEX_NAME, META_NAME, Store, StoreMeta, shard_path
from modist_pipelines.store.writer import quarantine_table, write_tables

_BLOCK = 100_000  # videos written together
_SHARD = 2_000  # videos
_JPEG = 14_000  # bytes
_BATCH = 64
GOAL_SECONDS, GOAL_GB = 30, 2


@dataclass(frozen=True)
class IndexBenchConfig:
    """Seconds and memory that a rank takes to open an index of made-up videos and to choose from it."""

    folder: Path
    """Takes the made-up store, 2.1 KB a video; removed at the end."""
    rows: int = ranged(10_000_000, COUNT)
    """Videos."""
    frames: int = ranged(75, COUNT)
    """Grid frames of each: ten seconds."""


def make_index(folder: Path, rows: int, frames: int) -> None:
    """A store of `rows` videos whose frames are not there."""
    meta = StoreMeta(256, {"edges": find_motion_input("edges").scale(10.0)})
    folder.mkdir(parents=True)
    (folder / "shards").mkdir()
    shards = -(-rows // _SHARD)
    size = _SHARD * 2 * frames * _JPEG
    for shard in range(shards):
        with shard_path(folder, shard).open("wb") as file:
            file.truncate(size)  # a hole: takes no room
    write_tables(folder, meta, index_schema(["edges"]).empty_table(), quarantine_table([]))
    columns = folder / COLUMNS_NAME
    columns.mkdir()

    def made(name: str, kind: type, shape: int) -> np.ndarray:
        return np.lib.format.open_memmap(columns / f"{name}.npy", mode="w+", dtype=kind, shape=(shape,))

    fixed = {"width": 340, "height": 256, "source_fps": 30.0, "num_source_frames": 4 * frames, "num_frames": frames}
    for name, kind in NUMBERS.items():
        made(name, kind, rows)[:] = fixed.get(name, 0)
    made("shard", np.int32, rows)[:] = np.arange(rows) // _SHARD
    made("frame_starts", np.int64, rows + 1)[:] = np.arange(rows + 1) * frames
    made("label", np.int32, rows)[:] = -1
    text = made("video_text", np.uint8, 20 * rows)
    made("video_ends", np.int64, rows)[:] = 20 * np.arange(1, rows + 1)
    arrays = {name: made(f"{name}_offsets", np.int64, rows * (frames + 1)) for name in ("rgb", "edges")}
    checksums = {name: made(f"{name}_crc32", np.uint32, rows * frames) for name in ("rgb", "edges")}
    scores = made("edges_scores", np.float32, rows * frames)
    random = np.random.default_rng(0)
    for begin in range(0, rows, _BLOCK):
        videos = np.arange(begin, min(rows, begin + _BLOCK))
        names = "".join(f"videos/{video:09d}.mp4" for video in videos).encode()
        text[20 * begin : 20 * (begin + len(videos))] = np.frombuffer(names, np.uint8)
        places = (videos % _SHARD)[:, None] * (2 * frames) + np.arange(frames + 1)
        for number, name in enumerate(arrays):
            offsets = (places + number * frames) * _JPEG
            arrays[name][begin * (frames + 1) : (begin + len(videos)) * (frames + 1)] = offsets.ravel()
            part = slice(begin * frames, (begin + len(videos)) * frames)
            checksums[name][part] = random.integers(1 << 32, size=len(videos) * frames, dtype=np.uint32)
        # A third of the videos barely move, as of Kinetics: gamma of mean 0.4 in [0, 10], by video and by frame.
        level = random.gamma(1.0, 0.4, len(videos)).astype(np.float32)
        scores[part] = (level[:, None] * random.random((len(videos), frames), np.float32) * 2).ravel()
    about = {
        "version": VERSION,
        "index": index_digest(folder / INDEX_NAME),
        "arrays": array_lengths(columns),
        "num_videos": rows,
        "labels": [],
        "fingerprint": "made up",
        "content": "made up",
        "frame_bytes": {"rgb": _JPEG, "edges": _JPEG},
        "shard_sizes": {str(shard): size for shard in range(shards)},
    }
    (columns / ABOUT_NAME).write_text(json.dumps(about))
    assert (folder / META_NAME).exists()


def begin(folder: Path, out: Connection) -> None:
    """What a rank does before its first clip; sends a row of figures."""
    before = _resident()
    config = modist_r50(folder, folder)
    found: dict[str, float] = {}

    def timed(name: str, started: float) -> float:
        found[name] = time.perf_counter() - started
        return time.perf_counter()

    clock = begun = time.perf_counter()
    cpu = time.process_time()
    store = Store.open(folder)
    clock = timed("open", clock)
    plan = config.plan(store.grid, store.fps)
    eligible = eligible_videos(store, plan)
    clock = timed("choose videos", clock)
    orders = [video_order(0, epoch, len(eligible.videos)) for epoch in range(2)]
    clock = timed("order two epochs", clock)
    for place in orders[1][:_BATCH].tolist():
        video = int(eligible.videos[place])
        plan_sample(plan, 0, 1, video, store.info(video))
    timed(f"plan {_BATCH} samples", clock)
    found["all"] = time.perf_counter() - begun
    found["of these, on a core"] = time.process_time() - cpu
    found["chosen"] = len(eligible.videos) / store.num_videos
    found["resident GB"] = _resident()
    found["of these, before the store"] = before
    out.send(found)


def _resident() -> float:
    """Most GB of memory that this process held at once, mapped pages among them.

    From the kernel's own mark: getrusage's is inherited, and begins with what the parent held.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1e9


def measure(config: IndexBenchConfig) -> dict[str, float]:
    """Make the index, begin with it in a new process, and remove it."""
    store = config.folder / "made-up-store"
    try:
        make_index(store, config.rows, config.frames)
        gigabytes = sum(path.stat().st_size for path in (store / COLUMNS_NAME).iterdir()) / 1e9
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=begin, args=(store, sender))
        process.start()
        sender.close()
        found = receiver.recv()
        process.join()
    finally:
        shutil.rmtree(store, ignore_errors=True)
    return {"arrays GB": gigabytes} | found


def main() -> int:
    config = parse_options(IndexBenchConfig)
    check_ranges(config)
    found = measure(config)
    print(f"{config.rows:,} videos of {config.frames} grid frames; pyarrow {pa.__version__}, numpy {np.__version__}")
    for name, value in found.items():
        print(f"  {name:28s} {value:.2f}")
    print(f"goal at 10,000,000: {GOAL_SECONDS} s and {GOAL_GB} GB")
    return 0


if __name__ == "__main__":
    run_cli(main)
