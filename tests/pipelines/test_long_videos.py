"""Long videos: patience is for what stands still, memory does not grow, and the longest is named.

python tests/pipelines/test_long_videos.py 10 60          # peak memory of preparing so many minutes each
python tests/pipelines/test_long_videos.py 720p 10 120    # the same of 1280x720 pixels: about half an hour
"""

import gc
import resource
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import looped, moving_pictures, write_video

from modist_pipelines.prepare.estimate import Sample, extrapolate
from modist_pipelines.prepare.growth import source_row
from modist_pipelines.prepare.motion import motion_scales
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardTask, largest_first, make_encoder
from modist_pipelines.prepare.workers import WorkerPool, share_of_workers
from modist_pipelines.store.reader import StoreMeta, shard_path
from modist_pipelines.store.writer import ShardWriter

pytestmark = pytest.mark.slow


def moving_corner(num: int, height: int, width: int) -> list[np.ndarray]:
    """Large pictures that cost little to decode: all but a corner stands still."""
    pictures = [moving_pictures(1, 0, height=height, width=width)[0] for _ in range(num)]
    for picture, corner in zip(pictures, moving_pictures(num, 2, height=96, width=128), strict=True):
        picture[:96, :128] = corner
    return pictures


def peak_of_preparing(folder: Path, minutes: float, is_720p: bool = False) -> int:
    """Bytes that the largest process took to prepare a video of so many minutes."""
    folder.mkdir()
    pictures = moving_corner(60, 720, 1280) if is_720p else moving_pictures(60, 2, height=48, width=64)
    once = write_video(folder / "once.mov", pictures)
    (folder / "in").mkdir()
    looped(folder / "in/long.mp4", once, 60 * minutes)
    words = [sys.executable, __file__, "--prepare", str(folder / "in"), str(folder / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert pq.read_table(folder / "out/index.parquet")["num_frames"].to_pylist() == [round(minutes * 60 * 30 / 4)]
    return int(done.stdout.split()[-1])


def test_memory_is_flat(tmp_path: Path) -> None:
    """Six times the length, at a size at which the frames that wait for others would show."""
    short, long = (peak_of_preparing(tmp_path / str(minutes), minutes) for minutes in (1, 6))
    assert long < 1.2 * short


@pytest.mark.long
def test_frames_are_let_go(tmp_path: Path) -> None:
    """PyAV's frames refer to themselves once their display matrix was asked for; Python's own collections, which are
    off here, may keep some for hours."""
    write_video(tmp_path / "in/a.mp4", moving_pictures(600, 2, height=48, width=64))
    meta = StoreMeta(short_side=32, motion_inputs=motion_scales(["edges"], 10.0))
    encoder = make_encoder(meta, prepare_parts.opencv_edges, None, "cpu")
    alive: list[int] = []

    def count(num: int) -> None:
        alive.append(sum(type(one) is av.VideoFrame for one in gc.get_objects()))

    gc.disable()
    try:
        (tmp_path / "out").mkdir()
        with ShardWriter(tmp_path / "out", 0, ["edges"]) as writer:
            encoder.encode(tmp_path / "in/a.mp4", writer, on_progress=count)
    finally:
        gc.enable()
    assert len(alive) == 150
    assert 0 < max(alive) < 100


def test_frames_come_out_the_same_from_several_threads(tmp_path: Path) -> None:
    """As many as there are workers without work, in the middle of a video too."""
    write_video(tmp_path / "a.mp4", moving_pictures(90, 2, height=48, width=64))
    meta = StoreMeta(short_side=48, motion_inputs=motion_scales(["edges", "flow"], 10.0), grid=1)
    together = threading.Barrier(2)
    shares = iter([1] * 10 + [3] * 30 + [1] * 20 + [2] * 30)
    asked: list[int] = []

    def share() -> int:
        asked.append(next(shares))
        return asked[-1]

    def edges(flows, **options):
        if threading.current_thread() is not threading.main_thread() and next(first_two, False):
            together.wait(60)  # or it breaks, where they come one after the other
        return prepare_parts.opencv_edges(flows, **options)

    first_two = iter([True, True])
    found = []
    for one in (lambda: 1, share):
        out = tmp_path / str(len(found))
        out.mkdir()
        encoder = make_encoder(meta, edges, None, "cpu")
        with ShardWriter(out, 0, ["edges", "flow"]) as writer:
            encoded = encoder.encode(tmp_path / "a.mp4", writer, share=one)
            size = {"width": encoded.width, "height": encoded.height, "source_fps": encoded.source_fps}
            writer.finish_video("a.mp4", label=None, num_source_frames=encoded.num_source_frames, **size)
        found.append((shard_path(out, 0).read_bytes(), encoded))
    assert found[0] == found[1]
    assert len(asked) == 90
    assert not next(first_two, False), "they met"


def test_who_has_work_knows_how_many_have_none() -> None:
    """Of three workers: with two at work one is left over, which makes no whole share; the last has all three."""
    told: list[int] = []
    with WorkerPool(3) as pool:
        pool.run([3, 1], prepare_parts.tell_share, lambda _, share: told.append(share), lambda *_: None)  # type: ignore[arg-type]
    assert told[-1] == 3
    assert told[0] in (1, 3)
    assert share_of_workers() == 1, "outside of a pool"


def test_a_video_that_gets_on_has_time(tmp_path: Path) -> None:
    """Longer than --video-timeout by far, and none of its frames is."""
    write_video(tmp_path / "in/a.mp4", moving_pictures(60, 2, height=48, width=64))
    config = PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=1, video_timeout=1.5)
    began = time.monotonic()
    prepare(config, prepare_parts.unhurried_edges)
    assert time.monotonic() - began > 3 * config.video_timeout
    assert pq.read_table(tmp_path / "out/index.parquet")["video"].to_pylist() == ["a.mp4"]


def test_reading_a_large_file_is_getting_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5 << 20))
    said: list[int] = []
    source_row("a", tmp_path / "a", said.append)
    assert len(said) == 5


def test_the_longest_is_named_and_bounds_the_time() -> None:
    short = Sample(1000, 10.0, 2.0, 500, 1.0, video="short.mp4")
    expected = extrapolate([short], total_bytes=100_000, num_workers=4)
    assert expected.hours == pytest.approx(1000 * 0.5 / 4 / 3600)
    longer = short._replace(video="film.mp4", duration=7200.0)
    bounded = expected.bounded_by(longer)
    assert bounded.hours == pytest.approx(1.0)
    said = "2 h of video, 60 min for one worker, so all others are done before it, and their workers help"
    assert f"the longest is film.mp4: {said}" in str(bounded)
    assert expected.bounded_by(short).hours == expected.hours


def test_workers_begin_with_the_largest(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 1000), ("c", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    tasks = [ShardTask(i, (name,)) for i, name in enumerate("abc")]
    assert [task.videos for task in largest_first(tasks, tmp_path)] == [("b",), ("c",), ("a",)]


def main(words: list[str]) -> None:
    if words[0] == "--prepare":
        config = PrepareConfig(Path(words[1]), Path(words[2]), short_side=64, workers=1, jpeg_quality=95)
        prepare(replace(config), prepare_parts.opencv_edges)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        is_720p = words[0] == "720p"
        words = words[is_720p:]
        peaks = [peak_of_preparing(Path(folder, minutes), float(minutes), is_720p) for minutes in words]
    for minutes, peak in zip(words, peaks, strict=True):
        print(f"{minutes} min: {peak / 1e6:.0f} MB, {peak / peaks[0]:.2f} of the first")


if __name__ == "__main__":
    main(sys.argv[1:])
