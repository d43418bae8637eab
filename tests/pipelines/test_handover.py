"""No clip is read after its memory was given away: the order of work that a GPU would be given, replayed."""

import gc
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_store import make_store
from fake_cuda import FakeCuda, FakeEvent, FakeGraph, FakeStream, FakeTensor
from made_videos import moving_pictures, write_video

from modist_pipelines.clips import backends as decoders
from modist_pipelines.clips.handover import Handed, Handover
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.plan import ClipPlan, ClipSpec, PlanConfig
from modist_pipelines.source import ClipSource
from modist_pipelines.video import engine as gpu_video
from modist_pipelines.video.raw import RawVideos

CONFIG = PlanConfig(ClipSpec(2, 8), ClipSpec(3, 4), crop_size=24, grid=4)
RGB_ALONE = replace(CONFIG, motion_threshold=0.0, motion_input=None)
NUM_STEPS = 4


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    fake = FakeCuda().install(monkeypatch)
    clip_graph, video_graph = decoders.clip_graph, gpu_video.video_graph

    def on_cpu(kind: Any, **options: Any) -> FakeGraph:
        fake.graphs.add(options["device_id"])
        return FakeGraph(fake, clip_graph(kind, **options | {"device": "cpu", "device_id": None}))

    monkeypatch.setattr(decoders, "clip_graph", on_cpu)

    def video_on_cpu(device: str, device_id: int | None) -> FakeGraph:
        fake.graphs.add(device_id)
        return FakeGraph(fake, video_graph("cpu", None))

    monkeypatch.setattr(gpu_video, "video_graph", video_on_cpu)
    return fake


def train(source: ClipSource, config: PlanConfig = CONFIG, device: str = "cuda:0", **options: Any) -> list[float]:
    """Steps that read their clips on the default stream and forget them; what they saw."""
    clips = ClipLoader(source, config, batch_size=4, seed=7, device=device, num_threads=2, prefetch=2, **options)
    seen = []
    for batch in clips.iterate(0, NUM_STEPS):
        for clip in batch.clips():
            seen.append((clip * 2).mean())  # work in the queue
        del batch, clip
    clips.close()
    gc.collect()
    return [float(mean) for mean in seen]


def on_cpu(source: ClipSource, config: PlanConfig) -> list[float]:
    clips = ClipLoader(source, config, batch_size=4, seed=7, num_threads=2, prefetch=2)
    seen = [float((clip * 2).mean()) for batch in clips.iterate(0, NUM_STEPS) for clip in batch.clips()]
    clips.close()
    return seen


def evaluate(source: ClipSource, device: str = "cuda:0") -> list[float]:
    """The same of clips that a reader gives, of more views of a video than a decoder takes at a time."""
    config = replace(CONFIG, motion=CONFIG.visual)
    plans = [ClipPlan(np.array([first % 7, first % 7 + 1]), (8, first, 36, 36)) for first in range(10)]
    requests = [Request(video, video, plans) for video in range(NUM_STEPS)]
    seen = []
    with ClipReader(source, config, torch.device(device), num_threads=2, kinds=("visual", "motion")) as reader:
        for _, clips in reader.read(requests):
            assert isinstance(clips, dict)
            seen += [(clip * 2).mean() for clip in clips.values()]  # work in the queue
            del clips
    gc.collect()
    return [float(mean) for mean in seen]


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", [8] * 9)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """In a format that DALI decodes on a CPU."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_video(folder / f"{number}.webm", moving_pictures(61, 1, seed=number), codec="libvpx-vp9")
    return folder


@pytest.mark.parametrize("motion_decoding", ["gpu", "host"])
def test_clips_outlive_the_work_on_them(cuda, store, motion_decoding):
    """On the host motion maps are decoded by a thread of their own, beside the one that runs the visual graph."""
    seen = train(store, motion_decoding=motion_decoding)
    assert seen == pytest.approx(on_cpu(store, CONFIG), abs=0.05)
    assert cuda.timeline.faults() == []
    released = [block.owner for block in cuda.timeline.blocks if block.released is not None]
    assert released.count("dali") == 2 * NUM_STEPS, "an output for each kind of clip and step, all given back"
    assert released.count("torch") >= 2 * NUM_STEPS


def test_clips_of_a_reader_outlive_the_work_on_them(cuda, store):
    seen = evaluate(store)
    assert seen == pytest.approx(evaluate(store, "cpu"), abs=0.05)
    assert cuda.timeline.faults() == []
    released = [block.owner for block in cuda.timeline.blocks if block.released is not None]
    assert released.count("dali") == 4 * NUM_STEPS, "two outputs for each kind of clip and video, all given back"


def test_frames_of_an_engine_outlive_the_work_on_them(cuda, videos):
    seen = train(RawVideos(videos, device="cuda:0"), RGB_ALONE)
    assert cuda.timeline.faults() == []
    owners = [block.owner for block in cuda.timeline.blocks if block.released is not None]
    assert owners.count("dali") > 2 * NUM_STEPS, "frames of the engine and clips of the graph"
    # The engine decodes the very frames, turned the right way.
    assert seen == pytest.approx(on_cpu(RawVideos(videos), RGB_ALONE), abs=0.05)


@pytest.mark.parametrize("device", ["cuda:1", "cuda"])
def test_every_thread_works_on_the_gpu_of_its_process(cuda, store, videos, device):
    torch.cuda.set_device(1)  # as `join_world` does on rank 1
    train(RawVideos(videos, device=device), RGB_ALONE, device)
    assert cuda.touched == {("MainThread", 1), ("decode", 1), ("read", 1)}
    evaluate(store, device)
    evaluate(store, device)
    assert {number for _, number in cuda.touched} == {1}
    assert cuda.graphs == {1}


def test_the_stand_in_finds_a_thread_on_gpu_0(cuda, videos, monkeypatch):
    torch.cuda.set_device(1)
    monkeypatch.setattr(ClipLoader, "_enter_thread", lambda self: None)
    train(RawVideos(videos, device="cuda:1"), RGB_ALONE, "cuda:1")
    assert ("decode", 0) in cuda.touched
    assert ("read", 0) not in cuda.touched, "the engine sees to its own threads"
    monkeypatch.setattr(gpu_video, "work_on", lambda device: None)
    train(RawVideos(videos, device="cuda:1"), RGB_ALONE, "cuda:1")
    assert ("read", 0) in cuda.touched


def test_the_loader_says_what_the_jpeg_engines_get(cuda, store, videos, monkeypatch):
    asked = []
    graph = decoders.clip_graph
    monkeypatch.setattr(
        decoders, "clip_graph", lambda *args, **options: asked.append(options) or graph(*args, **options)
    )

    def told(source: ClipSource, config: PlanConfig, device: str, **options: Any) -> str:
        sizes: Any = {"batch_size": 4, "num_threads": 1, "prefetch": 1}
        loader = ClipLoader(source, config, seed=7, device=device, hw_decoder_load=0.4, **sizes | options)
        loader.close()
        return loader.describe()

    assert told(store, CONFIG, "cuda:0").endswith(
        "on cuda:0; of the 10 JPEGs of a sample the GPU decodes 10, 40 % of them on its JPEG engines, and the host 0"
    )
    assert [(options["hw_decoder_load"], options["decode_on_host"]) for options in asked] == [(0.4, False)] * 2
    for options, on_gpu in (
        ({"motion_decoding": "host"}, 4),
        ({"num_threads": 8}, 4),
        ({"num_threads": 7}, 10),
        ({"num_threads": 8, "motion_decoding": "gpu"}, 10),
    ):
        asked.clear()
        assert f"the GPU decodes {on_gpu}, " in told(store, CONFIG, "cuda:0", **options)
        assert [each["decode_on_host"] for each in asked] == [False, on_gpu == 4]
    assert "the GPU decodes 4, " in told(store, RGB_ALONE, "cuda:0", motion_decoding="host")
    assert told(store, CONFIG, "cpu").endswith("on cpu")
    assert told(RawVideos(videos), RGB_ALONE, "cuda:0").endswith("on cuda:0")


# Faults, each of which a GPU would forgive most of the time.


def clone_behind_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone on the stream of the step; DALI is told nothing."""

    def take(self: Handover, output: Any, change: Any = None) -> Handed:
        lent = torch.from_dlpack(output.as_tensor())
        return Handed(change(lent) if change else lent.clone())

    monkeypatch.setattr(Handover, "stream", lambda self: nullcontext())
    monkeypatch.setattr(Handover, "take", take)


def let_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of its own, but nobody waits for the copy before the output goes."""
    monkeypatch.setattr(FakeEvent, "synchronize", lambda self: None)


def leave_out_the_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader puts parts together that the stream of whoever takes them knows nothing of."""
    monkeypatch.setattr(Handed, "receive", lambda self: self.tensor)


def use_unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's allocator is not told who else uses the clips."""
    monkeypatch.setattr(FakeTensor, "record_stream", lambda self, stream: None)


def use_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step does not wait for the copy, which DALI's memory would outlive."""
    kept, take = [], Handover.take

    def kept_take(self: Handover, output: Any, change: Any = None) -> Handed:
        kept.append(output)
        return take(self, output, change)

    monkeypatch.setattr(Handover, "take", kept_take)
    monkeypatch.setattr(FakeEvent, "synchronize", lambda self: None)
    monkeypatch.setattr(FakeStream, "wait_event", lambda self, event: None)


@pytest.mark.parametrize(
    ("use", "fault", "found"),
    [
        (train, clone_behind_the_step, r"clone reads memory \d+ of dali after its release"),
        (train, let_go_at_once, r"clone reads memory \d+ of dali after its release"),
        (train, use_unrecorded, r"mul reads memory \d+ of torch after its release"),
        (train, use_at_once, r"mul reads memory \d+ of torch before it is written"),
        (evaluate, leave_out_the_receive, r"cat reads memory \d+ of torch after its release"),
        (evaluate, use_unrecorded, r"cat reads memory \d+ of torch after its release"),
        (evaluate, use_at_once, r"cat reads memory \d+ of torch before it is written"),
    ],
)
def test_the_stand_in_finds_what_a_gpu_may_do(cuda, store, monkeypatch, use, fault, found):
    fault(monkeypatch)
    use(store)
    faults = cuda.timeline.faults()
    assert faults
    assert all(re.fullmatch(found, line) for line in faults), faults[:3]


def test_the_stand_in_follows_an_engine_too(cuda, videos, monkeypatch):
    let_go_at_once(monkeypatch)
    train(RawVideos(videos, device="cuda:0"), RGB_ALONE)
    found = " ".join(cuda.timeline.faults())
    assert "flip reads memory" in found
    assert "feed_input reads memory" in found


@pytest.mark.gpu
def test_copies_outlive_a_pool_that_takes_its_memory_back():
    """A foreign allocator on a stream that waits for nobody: what it gets back it overwrites at once."""
    cupy = pytest.importorskip("cupy", reason="CuPy is the foreign allocator of this test")
    device = torch.device("cuda", 0)
    taker, busy = Handover(device), torch.empty(8192, 8192, device=device)
    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)

    class Output:
        def __init__(self, value: int) -> None:
            with cupy.cuda.using_allocator(pool.malloc), stream:
                self.array: Any = cupy.full(1 << 22, value, cupy.float32)

        def as_tensor(self) -> Any:
            return self.array

    taken = []
    for value in range(20):
        for _ in range(4):
            busy @= busy  # torch's own stream has work for a while
        output = Output(value)
        taken.append(taker.take(output))
        with cupy.cuda.using_allocator(pool.malloc), stream:
            del output
            poison = cupy.full(1 << 22, cupy.nan, cupy.float32)  # the very memory, if it was given back
            del poison
    for value, handed in enumerate(taken):
        tensor = handed.receive()
        assert torch.equal(tensor, torch.full_like(tensor, value))
