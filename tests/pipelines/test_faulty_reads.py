"""Damaged frames and reads that hang: what they cost, and what they do not."""

import io
import logging
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from clip_store import make_store, picture
from isal.isal_zlib import crc32
from PIL import Image
from torch import Tensor

from modist_pipelines.clips.jpeg_headers import JpegHeaders
from modist_pipelines.clips.loader import ClipBatch, ClipLoader
from modist_pipelines.clips.patience import ReadThreads
from modist_pipelines.errors import DataError
from modist_pipelines.plan import ClipSpec, PlanConfig, plan_sample
from modist_pipelines.store.reader import Store, shard_path

pytestmark = pytest.mark.fault

CONFIG = PlanConfig(ClipSpec(2, 8), ClipSpec(3, 4), crop_size=24, grid=4)
BATCH, NUM_VIDEOS = 6, 12
CLIPS = ("visual_query", "visual_key", "motion_query", "motion_key")


def load(store: Store, start: int, end: int, **changes) -> list[ClipBatch]:
    options: dict[str, Any] = {"batch_size": BATCH, "seed": 7, "num_threads": 2} | changes
    loader = ClipLoader(store, CONFIG, **options)
    try:
        return list(loader.iterate(start, end))
    finally:
        loader.close()


def damage(store: Store, video: int, kind: str, frame: int) -> None:
    """Flip a byte in the middle of a frame of the file."""
    path = shard_path(store.path, store.shard(video))
    offsets = store._offsets[kind][video]
    with path.open("r+b") as file:
        position = int(offsets[frame] + offsets[frame + 1]) // 2
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0xFF]))


def clip_of(batch: ClipBatch, name: str) -> Tensor:
    tensor = getattr(batch, name)
    assert isinstance(tensor, Tensor)
    return tensor


def planned(store: Store, batch: ClipBatch, video: int):
    return plan_sample(CONFIG, 7, batch.epoch, video, store.info(video))


@pytest.fixture
def hurt(tmp_path) -> tuple[Store, list[ClipBatch], int]:
    """A store, its batches while it was whole, and a video of step 0 of which one query frame was then damaged."""
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    whole = load(store, 0, 4)
    for video in whole[0].video_ids.tolist():
        plan = planned(store, whole[0], video)
        only = set(plan.visual_query.frames.tolist()) - set(plan.visual_key.frames.tolist())
        if only:
            damage(store, video, "rgb", only.pop())
            return store, whole, video
    raise AssertionError("the seed gives query and key the same frames in all videos")


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_damage_costs_its_clip_and_nothing_else_whoever_reads(hurt, world_size):
    store, whole, video = hurt
    parts = [load(store, 0, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        damaged = [set(batch.video_ids[part[step].damaged].tolist()) for part in parts]
        assert set.union(*damaged) <= {video}
        if step == 0:
            owner = int(np.flatnonzero(batch.video_ids == video)[0]) // (BATCH // world_size)
            # Its key clip shows other frames, so whoever holds that alone knows of nothing.
            assert [bool(found) for found in damaged] == [rank == owner for rank in range(world_size)]
            assert sum(part[step].counters["videos_damaged"] for part in parts) == 1
        for name in CLIPS:
            of_key = batch.video_ids[batch.deal] if "key" in name else batch.video_ids
            kept = torch.from_numpy((of_key != video) | (step > 0 and not any(damaged)))
            now = torch.cat([clip_of(part[step], name) for part in parts])
            assert torch.equal(now[kept], clip_of(batch, name)[kept])
    blank = torch.cat([part[0].visual_query for part in parts])[torch.from_numpy(whole[0].video_ids == video)]
    assert blank.min() == blank.max()
    assert abs(blank.mean()) < 0.01  # mid-gray, normalized
    motion = torch.cat([clip_of(part[0], "motion_query") for part in parts])
    assert torch.equal(motion, clip_of(whole[0], "motion_query"))  # which the damaged frame does not show


def test_damage_is_named_once_and_where_it_is(hurt, caplog):
    store, _, video = hurt
    with caplog.at_level(logging.WARNING, "modist"):
        batches = load(store, 0, 40)
    assert sum(batch.counters["videos_damaged"] for batch in batches) > 1
    assert len(caplog.messages) == 1
    assert f"{video:04d}.mp4 is damaged and left out of epoch 0" in caplog.text
    assert "00000.bin is damaged: rgb frame" in caplog.text


@pytest.mark.parametrize("kept", [0, 2, 100, 200, 640], ids=lambda kept: f"zeros from byte {kept} on")
def test_frame_that_is_no_jpeg_though_its_checksum_holds(tmp_path, kept):
    """Nothing before decoding can find it, in its header or behind it; the rest of the batch goes on without it."""
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    (whole,) = load(store, 0, 1)
    video = int(whole.video_ids[2])
    plan = planned(store, whole, video).motion_query
    assert plan is not None
    frame = int(plan.frames[1])
    path = shard_path(store.path, 0)
    begin, end = (int(at) for at in store._offsets["edges"][video][frame : frame + 2])
    with path.open("r+b") as file:
        file.seek(begin)
        whole_frame = file.read(end - begin)
        hurt = whole_frame[:kept] + bytes(len(whole_frame[kept:]))
        file.seek(begin)
        file.write(hurt)
    store._crc32["edges"].values = store._crc32["edges"].values.copy()  # Arrow's memory is read-only
    store._crc32["edges"][video][frame] = crc32(hurt)
    (batch,) = load(store, 0, 1)
    assert batch.damaged.tolist() == [row == 2 for row in range(BATCH)]
    kept = torch.from_numpy(~batch.damaged)
    motion = clip_of(batch, "motion_query")
    assert torch.equal(motion[kept], clip_of(whole, "motion_query")[kept])
    assert torch.equal(batch.visual_query, whole.visual_query)
    assert motion[2].abs().max() == 0


@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(3000)}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_no_header_is_refused_that_decodes(mode, options):
    """By another encoder; twice, since a header that was seen is looked at in another way."""
    file = io.BytesIO()
    Image.fromarray(picture(48, 64, 0)).convert(mode).save(file, "jpeg", **options)
    headers, frame = JpegHeaders(), np.frombuffer(file.getvalue(), np.uint8)
    assert headers.is_whole(frame)
    assert headers.is_whole(frame)
    assert not headers.is_whole(frame[:40])


def test_a_disk_that_gives_nothing_ends_the_run(tmp_path):
    store = make_store(tmp_path, [12] * 40)
    for video in range(40):
        for frame in range(12):
            damage(store, video, "rgb", frame)
    with pytest.raises(DataError, match=r"the last 17 videos of .* could not be read; .* fails its checksum"):
        load(store, 0, 6)


def test_failing_read_is_tried_again(tmp_path, monkeypatch):
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    (whole,) = load(store, 0, 1)
    pread, failures = os.pread, []

    def flaky(fd: int, size: int, at: int) -> bytes:
        if len(failures) < 2:
            failures.append(at)
            raise OSError(116, "Stale file handle")
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", flaky)
    (batch,) = load(store, 0, 1)
    assert len(failures) == 2
    assert not batch.damaged.any()
    assert torch.equal(batch.visual_query, whole.visual_query)


def test_shard_that_shrank_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("modist_pipelines.store.reader._READ_PAUSES", (0.0,))
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    path = shard_path(store.path, 0)
    os.truncate(path, path.stat().st_size - 200)  # the last video's last map
    with pytest.raises(DataError, match=r"00000\.bin cannot be read where 0011\.mp4 is: it ends at byte \d+, not at"):
        store.read_frames(NUM_VIDEOS - 1, "edges", [11])
    assert store.read_frames(NUM_VIDEOS - 1, "edges", [10])


def test_hung_read_is_begun_again_beside_the_first(tmp_path, monkeypatch, caplog):
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    (whole,) = load(store, 0, 1)
    release = threading.Event()
    hung = []
    read = Store.read

    def hanging(self, video, wanted):
        if video == whole.video_ids[0] and not hung:
            hung.append(video)
            release.wait(600)
        return read(self, video, wanted)

    monkeypatch.setattr(Store, "read", hanging)
    with caplog.at_level(logging.WARNING, "modist"):
        (batch,) = load(store, 0, 1, read_patience=2.0)
    release.set()
    assert torch.equal(batch.visual_query, whole.visual_query)
    name = f"{hung[0]:04d}.mp4"
    assert f"reading {name} of {store.path} has taken" in caplog.text
    assert f"reading {name} came back after" in caplog.text


def test_read_that_never_comes_back_is_an_error_and_ends_nothing_else(tmp_path):
    release = threading.Event()
    threads = ReadThreads(1, 0.1, "the store")
    job = threads.submit("v.mp4", lambda: release.wait(600))
    other = threading.Event()
    with pytest.raises(DataError, match=r"reading v\.mp4 of the store has not come back .* 3 attempts"):
        threads.result(job, other)
    release.set()
    threads.close()


@pytest.mark.parametrize("where", ["begins", "works"])
def test_a_thread_that_cannot_work_says_why_at_once(where):
    def fail() -> None:
        raise RuntimeError("no such device")

    begins = {"enter": fail} if where == "begins" else {}
    threads = ReadThreads(2, 600.0, "the store", **begins)
    job = threads.submit("v.mp4", fail if where == "works" else lambda: None)
    with pytest.raises(RuntimeError, match="no such device"):
        threads.result(job, threading.Event())
    threads.close()


def test_closing_does_not_wait_for_a_hung_read(tmp_path, monkeypatch):
    store = make_store(tmp_path, [12] * NUM_VIDEOS)
    reading, release, came_back = threading.Event(), threading.Event(), threading.Event()

    def hanging(self, video, wanted):
        reading.set()
        release.wait(600)
        came_back.set()

    monkeypatch.setattr(Store, "read", hanging)
    before = set(threading.enumerate())  # what earlier tests have let go may not have ended yet
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7, num_threads=1)
    batches = loader.iterate(0, 4)
    consumer = threading.Thread(target=lambda: next(batches, None), daemon=True)
    consumer.start()
    assert reading.wait(600)
    while loader._running is None:  # reads begin before the thread that began them is known to the loader
        time.sleep(0.01)
    loader.close()
    assert not came_back.is_set()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "decode"]
    release.set()
