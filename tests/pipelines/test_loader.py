"""The loader: the planned clips, whoever loads them, without a copy, and an end to every thread."""

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from clip_store import make_store, run_graph
from torch import Tensor

from modist_pipelines.clips.loader import ClipBatch, ClipLoader
from modist_pipelines.errors import DataError
from modist_pipelines.plan import Augmentation, ClipSpec, PlanConfig, deal_keys, partner_of, plan_sample, video_order
from modist_pipelines.store.reader import Store

CONFIG = PlanConfig(ClipSpec(2, 8), ClipSpec(3, 4), crop_size=24, grid=4)
NUM_VIDEOS, BATCH = 15, 6  # two steps an epoch, three videos of each left out
CLIPS = ("visual_query", "visual_key", "motion_query", "motion_key")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    still = {video: [0.0] * 8 for video in (3, 11)}
    return make_store(tmp_path_factory.mktemp("store"), [8] * (NUM_VIDEOS + 2), scores=still)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert left == []


def load(store: Store, start: int, end: int, plan: PlanConfig = CONFIG, **changes) -> list[ClipBatch]:
    options: dict[str, Any] = {"batch_size": BATCH, "seed": 7, "num_threads": 2} | changes
    loader = ClipLoader(store, plan, **options)
    try:
        return list(loader.iterate(start, end))
    finally:
        loader.close()


def clip_of(batch: ClipBatch, name: str) -> Tensor:
    tensor = getattr(batch, name)
    assert isinstance(tensor, Tensor)
    return tensor


def assert_same(a: ClipBatch, b: ClipBatch) -> None:
    assert (a.step, a.epoch, a.counters) == (b.step, b.epoch, b.counters)
    np.testing.assert_array_equal(a.video_ids, b.video_ids)
    np.testing.assert_array_equal(a.deal, b.deal)
    for name in CLIPS:
        assert torch.equal(clip_of(a, name), clip_of(b, name))


def test_clips_are_the_planned_ones(store):
    """Each clip, decoded alone from what the plan says, at the place where it belongs."""
    moving = [video for video in range(NUM_VIDEOS + 2) if video not in (3, 11)]
    for batch in load(store, 1, 4):
        epoch, position = divmod(batch.step, NUM_VIDEOS // BATCH)
        assert batch.epoch == epoch
        order = video_order(7, epoch, NUM_VIDEOS)[position * BATCH : (position + 1) * BATCH]
        assert batch.video_ids.tolist() == [moving[i] for i in order]
        assert batch.video_ids.dtype == np.int32
        np.testing.assert_array_equal(batch.deal, deal_keys(7, batch.step, BATCH))
        for j in range(BATCH):
            for name in CLIPS:
                video = int(batch.video_ids[batch.deal[j] if "key" in name else j])
                plan = getattr(plan_sample(CONFIG, 7, epoch, video, store.info(video)), name)
                kind, frames = ("visual", "rgb") if "visual" in name else ("motion", "edges")
                jpegs = store.read_frames(video, frames, plan.frames)
                (expected,) = run_graph(kind, jpegs, [plan], crop_size=24)
                # DALI's graph keeps fractions of a gray level between its steps, OpenCV does not.
                found = clip_of(batch, name)[j].permute(1, 2, 3, 0).numpy()
                np.testing.assert_allclose(found, expected, atol=0.06)
                assert np.abs(found - expected).mean() < 0.012
        assert batch.data_wait > 0


def distinct_bytes(store: Store, batch: ClipBatch, mine: slice) -> int:
    """Bytes of the frames that a process's part of a step names, each counted once."""
    frames = set()
    for name in CLIPS:
        for video in batch.video_ids[batch.deal[mine] if "key" in name else mine].tolist():
            plan = getattr(plan_sample(CONFIG, 7, batch.epoch, video, store.info(video)), name)
            frames |= {(video, "rgb" if "visual" in name else "edges", int(frame)) for frame in plan.frames}
    return sum(len(store.read_frames(video, kind, [frame])[0]) for video, kind, frame in frames)


def test_an_epoch_takes_no_video_twice(store):
    batches = load(store, 0, 6)
    epochs = [np.concatenate([b.video_ids for b in batches if b.epoch == epoch]) for epoch in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_loads_the_same(store, world_size):
    (whole,) = load(store, 3, 4)
    parts = [load(store, 3, 4, rank=rank, world_size=world_size, num_threads=1)[0] for rank in range(world_size)]
    for part in parts:
        np.testing.assert_array_equal(part.video_ids, whole.video_ids)
        np.testing.assert_array_equal(part.deal, whole.deal)
    for name in CLIPS:
        assert torch.equal(torch.cat([clip_of(part, name) for part in parts]), clip_of(whole, name))
    for rank, part in enumerate([*parts, whole]):
        size = len(part.visual_query)
        assert part.counters["bytes_read"] == distinct_bytes(
            store, part, slice(size * (rank % world_size), size * (rank % world_size + 1))
        )


def test_undealt_keys_stay_with_their_queries(store):
    (dealt,), (undealt,) = load(store, 2, 3), load(store, 2, 3, shuffle_keys=False)
    assert undealt.deal.tolist() == list(range(BATCH))
    assert dealt.deal.tolist() != undealt.deal.tolist()
    for name in CLIPS:
        order = torch.from_numpy(dealt.deal) if "key" in name else slice(None)
        assert torch.equal(clip_of(undealt, name)[order], clip_of(dealt, name))


def test_a_step_does_not_depend_on_where_one_starts(store):
    whole = load(store, 0, 5)
    for start in (1, 4):
        for a, b in zip(load(store, start, 5, prefetch=1, num_threads=1), whole[start:], strict=True):
            assert_same(a, b)


def test_one_loader_iterates_again(store):
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7)
    first = loader.iterate(0, 9)
    zero = next(first)
    for a, b in zip(loader.iterate(0, 2), [zero, *load(store, 1, 2)], strict=True):
        assert_same(a, b)
    with pytest.raises(RuntimeError, match="iterates from another step"):
        next(first)
    loader.close()


def test_clips_are_views_of_the_memory_that_the_decoder_wrote(store):
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7)
    written = []
    decoders: Any = loader._decoders.values()
    for decoder in decoders:

        def run(*arguments, original=decoder.run):
            handed = original(*arguments)
            written.append((handed.tensor.data_ptr(), handed))  # and kept, so that no one else gets the memory
            return handed

        decoder.run = run
    batch = loader.decode(loader.submit_reads(0))
    loader.close()
    for (address, _), kind, channels, num_frames in zip(written, ("visual", "motion"), (3, 1), (2, 3), strict=True):
        query, key = clip_of(batch, f"{kind}_query"), clip_of(batch, f"{kind}_key")
        assert query.data_ptr() == address
        assert key.data_ptr() == address + query.numel() * 4
        for clip in (query, key):
            assert clip.shape == (BATCH, channels, num_frames, 24, 24)
            assert clip.dtype == torch.float32
            assert clip.is_contiguous(memory_format=torch.channels_last_3d)


def test_later_steps_leave_earlier_batches_alone(store):
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7, prefetch=1)
    held, copies = [], []
    for batch in loader.iterate(0, 12):
        held.append(batch)
        copies.append([clip_of(batch, name).clone() for name in CLIPS])
    loader.close()  # the graphs may go too
    del loader
    for batch, clips in zip(held, copies, strict=True):
        for name, copy in zip(CLIPS, clips, strict=True):
            assert torch.equal(clip_of(batch, name), copy)


def test_rgb_alone_touches_no_motion(store, monkeypatch):
    read = Store.read
    kinds = set()

    def recording(self, video, wanted):
        kinds.update(wanted)
        return read(self, video, wanted)

    monkeypatch.setattr(Store, "read", recording)
    load(store, 0, 1)
    assert kinds == {"rgb", "edges"}
    kinds.clear()
    (batch,) = load(store, 0, 1, replace(CONFIG, motion_input=None), batch_size=16)
    assert kinds == {"rgb"}
    assert (batch.motion_query, batch.motion_key) == (None, None)
    assert batch.counters["frames_used"] == 16 * 2 * 2
    assert {3, 11} & set(batch.video_ids.tolist())  # no motion is asked of them


def test_a_frame_is_read_once_however_many_clips_show_it(store, monkeypatch):
    """Counted where the bytes come from the file."""
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (reads.append((at, at + size)), pread(fd, size, at))[1])
    (batch,) = load(store, 0, 1)
    reads.sort()
    assert all(end <= begin for (_, end), (begin, _) in pairwise(reads))
    num_bytes = sum(end - begin for begin, end in reads)
    num_frames = BATCH * 2 * (2 + 3)
    assert batch.counters == {
        "frames_used": num_frames,
        "frames_decoded": num_frames,
        "bytes_read": num_bytes,
        "bytes_needed": distinct_bytes(store, batch, slice(0, BATCH)),
        "videos_damaged": 0,
    }
    assert num_bytes == batch.counters["bytes_needed"]


def test_consumer_that_stops_early(store):
    before = set(threading.enumerate())
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7)
    for batch in loader.iterate(0, 1000):
        if batch.step == 2:
            break
    # The generator has ended with the loop.
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "decode"]
    loader.close()


def test_consumer_that_fails(store):
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7)

    def train(batches: Iterator[ClipBatch]) -> None:
        for _ in batches:
            raise ZeroDivisionError

    batches = loader.iterate(0, 1000)
    with pytest.raises(ZeroDivisionError):
        train(batches)
    loader.close()  # the iterator is still held
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(batches)


def test_slow_consumer_does_not_let_batches_pile_up(store, monkeypatch):
    decoded = []
    decode = ClipLoader.decode
    monkeypatch.setattr(
        ClipLoader,
        "decode",
        lambda self, reads, given_up: (decoded.append(reads.step), decode(self, reads, given_up))[1],
    )
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7, prefetch=3)
    batches = loader.iterate(0, 1000)
    next(batches)
    deadline = time.monotonic() + 600
    while len(decoded) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert decoded == list(range(5))  # one taken, three ready, one waiting for its place
    loader.close()


def test_subset_is_the_same_in_all_epochs_and_processes(store):
    seen = [
        {
            int(video)
            for batch in load(store, 0, 8, batch_size=4, subset=8, rank=rank, world_size=2)
            for video in batch.video_ids
        }
        for rank in (0, 1)
    ]
    assert len(seen[0]) == 8
    assert seen[0] == seen[1]
    assert not seen[0] & {3, 11}
    other = {int(video) for batch in load(store, 0, 8, batch_size=4, subset=8, seed=8) for video in batch.video_ids}
    assert other != seen[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 16}, r"15 usable videos, fewer than --batch-size 16 \(it holds 17;"),
        ({"subset": 16}, r"--clips\.subset 16 asks for more videos than .* offers: 15"),
        ({"subset": 5}, r"5 usable videos, fewer than --batch-size 6"),
    ],
)
def test_too_few_videos(store, changes, message):
    with pytest.raises(DataError, match=message):
        load(store, 0, 1, **changes)


def test_motion_input_that_the_store_lacks(store):
    with pytest.raises(DataError, match=r"holds no 'magnitude', only edges.*--clips\.motion-input"):
        load(store, 0, 1, replace(CONFIG, motion_input="magnitude"))


def test_rejected_windows_are_told(store):
    loader = ClipLoader(store, CONFIG, batch_size=BATCH, seed=7)
    told = loader.describe()
    loader.close()
    # Videos of eight frames have six windows of three.
    assert "15 of 17 videos can be used" in told
    assert f"{100 * 12 / 102:.1f} % of the motion windows are rejected" in told
    assert "at or below 0.02 of full scale, 0.2 as stored" in told
    assert loader.rejected_windows == pytest.approx(12 / 102)


@pytest.mark.parametrize(
    ("num_still", "threshold", "words"),
    [
        (0, 0.02, "--clips.motion-threshold 0.02 rejects none .* or set it to 0"),
        (0, 0.0, None),
        (1, 0.02, None),
        (7, 0.02, None),
        (8, 0.02, "--clips.motion-threshold 0.02 rejects 67 % .* Lower it"),
    ],
)
def test_an_odd_share_of_rejected_windows_is_warned_of(tmp_path, num_still, threshold, words):
    """Twelve videos on either side of γ, which is 0.2 in a store's units."""
    scores = {video: [0.19 if video < num_still else 0.21] * 8 for video in range(12)}
    store = make_store(tmp_path, [8] * 12, scores=scores)
    loader = ClipLoader(store, replace(CONFIG, motion_threshold=threshold), batch_size=2, seed=7)
    warning = loader.warning()
    loader.close()
    assert warning is None if words is None else re.search(words, warning or ""), warning


def test_options_of_the_augmentation_reach_the_graph(store):
    plain = Augmentation(
        crop_area=(1.0, 1.0), crop_aspect=(4 / 3, 4 / 3), flip=0, color=0, gray=0, blur=0, mean=0, std=1
    )
    (batch,) = load(store, 0, 1, replace(CONFIG, augmentation=plain), shuffle_keys=False)
    assert batch.visual_query.min() >= 0
    assert batch.visual_query.max() <= 1


def test_the_control_gives_each_video_the_motion_clips_of_its_partner_and_its_own_rgb_clips(store):
    plain = replace(CONFIG, motion_threshold=0.0)
    given = load(store, 0, 2, replace(plain, motion_control="another-video"))
    expected: dict[tuple[str, int], Tensor] = {}
    for batch in load(store, 0, 2, plain):
        for name in CLIPS:
            order = batch.video_ids[batch.deal] if "key" in name else batch.video_ids
            expected |= {(name, int(video)): clip for video, clip in zip(order, clip_of(batch, name), strict=True)}
    compared = 0
    for batch in given:
        for name in CLIPS:
            order = batch.video_ids[batch.deal] if "key" in name else batch.video_ids
            for video, clip in zip(order.tolist(), clip_of(batch, name), strict=True):
                owner = partner_of(7, NUM_VIDEOS + 2, video) if "motion" in name else video
                if (name, owner) in expected:
                    assert torch.equal(clip, expected[name, owner])
                    compared += "motion" in name
    assert compared >= 10
