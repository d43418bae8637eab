"""From a folder of videos to a store: right frames, right scores, nothing lost, whatever happens."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures, numbered_picture, read_number, write_video
from scipy import ndimage

from modist_pipelines.errors import DataError
from modist_pipelines.prepare.estimate import Estimate, Sample, extrapolate
from modist_pipelines.prepare.motion import motion_scales
from modist_pipelines.prepare.partial import PartialStore
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker, ShardTask, plan_shards
from modist_pipelines.store.reader import Store, StoreMeta
from modist_pipelines.store.summary import Summary
from modist_pipelines.video.discovery import discover_videos

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, out: Path, edges=prepare_parts.opencv_edges, **options: Any) -> Summary:
    config = PrepareConfig(folder, out, short_side=32, workers=2)
    summary = prepare(replace(config, **options), edges)
    assert isinstance(summary, Summary)
    return summary


def decoded(store: Store, row: int, kind: str = "rgb") -> list[np.ndarray]:
    jpegs = store.read_frames(row, kind, range(int(store.num_frames[row])))
    mode = cv2.IMREAD_COLOR if kind == "rgb" else cv2.IMREAD_GRAYSCALE
    pictures = [cv2.imdecode(jpeg, mode) for jpeg in jpegs]
    return [picture for picture in pictures if picture is not None]


def contents(store: Path) -> dict[str, bytes]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def quarantine(store: Path) -> dict[str, str]:
    table = pq.read_table(store / "quarantine.parquet")
    assert table.column_names == ["video", "reason", "detail"]
    assert all(table["detail"].to_pylist())
    return dict(zip(table["video"].to_pylist(), table["reason"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight usable videos of two classes, three that are not, a table."""
    path = tmp_path_factory.mktemp("videos")
    for seed in range(8):
        pictures = moving_pictures(40 + 5 * seed, speed=1 + seed % 3, height=48, width=64, seed=seed)
        write_video(path / f"{'run' if seed % 2 else 'walk'}/{seed}.mp4", pictures)
    write_video(path / "run/still.mp4", [numbered_picture(5)] * 30)
    write_video(path / "run/short.mp4", moving_pictures(5, 1))
    (path / "broken.avi").write_bytes(b"RIFF")
    (path / "labels.csv").write_text("a,b")
    return path


@pytest.fixture(scope="module")
def store_path(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("store") / "store"
    run(folder, out, motion_inputs=("edges", "magnitude", "difference"))
    return out


def test_store_holds_every_video_or_says_why_not(store_path):
    store = Store.open(store_path)
    store.verify()
    numbers = (1, 3, 5, 7, 0, 2, 4, 6)
    assert list(store.videos) == [f"{'run' if i % 2 else 'walk'}/{i}.mp4" for i in numbers]
    assert list(store.labels) == ["run"] * 4 + ["walk"] * 4
    assert store.num_frames.tolist() == [-(-(40 + 5 * i) // 4) for i in numbers]
    assert set(zip(store.width.tolist(), store.height.tolist(), strict=True)) == {(43, 32)}
    assert quarantine(store_path) == {
        "broken.avi": "unreadable",
        "run/short.mp4": "too_short",
        "run/still.mp4": "motionless",
    }
    assert {path.name for path in store_path.iterdir()} == {
        "store.json",
        "index.parquet",
        "quarantine.parquet",
        "sources.parquet",
        "shards",
    }


def test_stored_frames_and_maps_decode_to_the_stored_size(store_path):
    store = Store.open(store_path)
    for kind in ("rgb", "edges", "magnitude", "difference"):
        frames = decoded(store, 0, kind)
        assert len(frames) == store.num_frames[0]
        assert {frame.shape[:2] for frame in frames} == {(32, 43)}


@pytest.mark.parametrize("grid", [4, 3, 1])
def test_grid_frame_is_the_nominal_frame(tmp_path, grid):
    times = [0, *np.cumsum(np.random.default_rng(0).choice([20, 33, 60, 130], size=59)).tolist()]
    pictures = [numbered_picture(i) for i in range(60)]
    write_video(tmp_path / "in/a30.mp4", pictures)
    write_video(tmp_path / "in/b25.mp4", pictures, fps=25)
    write_video(tmp_path / "in/c_vfr.mkv", pictures, times=times)
    run(tmp_path / "in", tmp_path / "out", grid=grid, workers=1)
    store = Store.open(tmp_path / "out")
    on_show = [
        lambda i: i,
        lambda i: i * 25 // 30,
        lambda i: max(j for j, time in enumerate(times) if time <= i * 1000 / 30 + 0.5),
    ]
    for row, expected in enumerate(on_show):
        numbers = [read_number(picture) for picture in decoded(store, row)]
        assert numbers == [expected(g * grid) for g in range(len(numbers))]
    assert store.num_frames[:2].tolist() == [-(-60 // grid), -(-72 // grid)]


def test_colours_survive(tmp_path):
    red, green = np.zeros((2, 48, 64, 3), np.uint8)
    red[..., 0], green[..., 1] = 230, 230
    write_video(tmp_path / "in/a.mp4", [red] * 10 + [green] * 10)
    run(tmp_path / "in", tmp_path / "out", workers=1)
    first, last = (decoded(Store.open(tmp_path / "out"), 0)[g][16, 20] for g in (0, 4))  # B, G, R
    np.testing.assert_allclose(first, [0, 0, 230], atol=12)
    np.testing.assert_allclose(last, [0, 230, 0], atol=12)


def reference_frames(path: Path) -> list[np.ndarray]:
    """Gray frames of a video that needs neither scaling nor another clock."""
    with av.open(str(path)) as container:
        return [cv2.cvtColor(f.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY) for f in container.decode(video=0)]


def test_scores_against_an_independent_computation(tmp_path):
    pictures = moving_pictures(33, 2, height=64, width=96)
    path = write_video(tmp_path / "in/a.mkv", pictures, codec="ffv1")
    names = ("edges", "magnitude", "difference")
    run(tmp_path / "in", tmp_path / "out", short_side=64, motion_inputs=names, workers=1)
    store = Store.open(tmp_path / "out")
    gray = reference_frames(path)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    edges = decoded(store, 0, "edges")
    for g in range(9):
        t = 4 * g
        flow = dis.calc(gray[t], gray[t - 5 if t >= 5 else t + 5], None).astype(np.float64)  # type: ignore
        magnitude = np.sqrt((flow**2).sum(axis=-1))
        gradients = [ndimage.sobel(magnitude, axis=axis, mode="nearest") for axis in (0, 1)]
        expected = np.minimum(np.sqrt(gradients[0] ** 2 + gradients[1] ** 2), 10)
        assert store.scores(0, "edges")[g] == pytest.approx(expected.mean(), rel=1e-4)
        assert np.abs(edges[g] / 25.5 - expected).mean() < 0.1
        assert store.scores(0, "magnitude")[g] == pytest.approx(magnitude.mean() / 3.2, rel=1e-4)
        difference = np.abs(gray[t].astype(int) - gray[t - 1 if t else 1])
        assert store.scores(0, "difference")[g] == pytest.approx(difference.mean() / 25.5, rel=1e-4)
    # The texture goes by 2 pixels a frame, so 10 in the span of a flow field, at the start as later.
    np.testing.assert_allclose(store.scores(0, "magnitude"), 10 / 3.2, rtol=0.25)


def test_number_of_workers_changes_nothing(folder, store_path, tmp_path):
    run(folder, tmp_path / "one", workers=1, motion_inputs=("edges", "magnitude", "difference"))
    assert contents(tmp_path / "one") == contents(store_path)


def test_killed_run_is_resumed_to_the_same_bytes(folder, tmp_path):
    script = [sys.executable, prepare_parts.__file__]
    paths = os.pathsep.join([str(ROOT / "pipelines"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths}
    quiet: Any = {"env": environment, "stdout": subprocess.DEVNULL}
    subprocess.run([*script, folder, tmp_path / "whole", "99"], check=True, **quiet)

    killed = tmp_path / "killed"
    for num_done in (2, 5):
        process = subprocess.Popen([*script, folder, killed, str(num_done)], **quiet)
        while len(list((killed / ".partial").glob("?????.parquet"))) < num_done:
            assert process.poll() is None, "it finished before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(DataError, match="half-made"):
            Store.open(killed)
    done = {path: path.stat().st_mtime_ns for path in (killed / "shards").glob("*.bin")}
    assert len(done) >= 3
    subprocess.run([*script, folder, killed, "99"], check=True, **quiet)
    assert contents(killed) == contents(tmp_path / "whole")
    finished = [path for path, time_ns in done.items() if path.stat().st_mtime_ns == time_ns]
    assert len(finished) >= len(done) - 2  # all but those that were in the hands of the two workers


def test_missing_shard_of_a_half_made_store_is_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modist_pipelines.prepare.run.write_tables", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(folder, tmp_path / "a")
    monkeypatch.undo()
    shard = next((tmp_path / "a/shards").glob("*.bin"))
    os.truncate(shard, 10)
    run(folder, tmp_path / "a")
    Store.open(tmp_path / "a").verify()


def test_video_that_ends_its_worker_costs_only_itself(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    write_video(tmp_path / "in/run/6_wide.mp4", moving_pictures(40, 1, height=32, width=96))
    summary = run(tmp_path / "in", tmp_path / "out", prepare_parts.fatal_for_wide_videos)
    assert summary.num_videos == 8
    assert quarantine(tmp_path / "out")["run/6_wide.mp4"] == "crashed"
    assert summary.quarantined["crashed"] == ["run/6_wide.mp4"]
    detail = pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()[1]["detail"]
    assert f"signal {signal.SIGSEGV.value}" in detail


def test_fault_of_the_program_is_not_blamed_on_the_videos(folder, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(folder, tmp_path / "out", prepare_parts.faulty_edges)
    assert not (tmp_path / "out/store.json").exists()


EXPECTED_ODD = {
    "decord_unordered.mov": "too_short",
    "decord_video_0.mov": "too_short",
    "decord_video_90.mov": "too_short",
    "decord_video_180.mov": "too_short",
    "decord_video_270.mov": "too_short",
    "derived_audio_only.mp4": "no_video_stream",
    "derived_bytes_flipped.avi": "decode_error",
    "derived_one_frame.mp4": "too_short",
    "derived_static.mp4": "motionless",
    "derived_text_named.mp4": "unreadable",
    "derived_three_frames.mp4": "too_short",
    "derived_truncated.mp4": "unreadable",
    "derived_zero_length.mp4": "unreadable",
    "torchcodec_h265_video.mp4": "too_short",
    "torchcodec_nasa_13013.mp4.audio.mp3": "no_video_stream",
}


def test_odd_files_are_all_accounted_for(shared_data, tmp_path):
    summary = run(shared_data / "odd", tmp_path / "out", short_side=64)
    store = Store.open(tmp_path / "out")
    names = sorted(path.name for path in (shared_data / "odd").iterdir())
    assert quarantine(tmp_path / "out") == EXPECTED_ODD
    assert sorted([*store.videos, *EXPECTED_ODD]) == names
    assert set(store.labels) == {None}
    notes = pq.read_table(tmp_path / "out/index.parquet", columns=["video", "note"]).to_pylist()
    noted = {row["video"] for row in notes if row["note"]}
    assert noted == {"decord_corrupted.mp4", "derived_truncated.avi"}
    assert summary.num_noted == 2
    assert sum(map(len, summary.quarantined.values())) == len(EXPECTED_ODD)
    assert "1 motionless" in str(summary)


@pytest.mark.parametrize("short_side", [32, 256])
def test_motionless_at_any_size(shared_data, tmp_path, short_side):
    (tmp_path / "in").mkdir()
    shutil.copy(shared_data / "odd/derived_static.mp4", tmp_path / "in")
    with pytest.raises(DataError, match="1 motionless"):
        run(tmp_path / "in", tmp_path / "out", short_side=short_side)


def test_index_says_nothing_of_where_it_was_made(store_path, folder):
    for name, data in contents(store_path).items():
        assert str(folder).encode() not in data, name
        assert str(store_path).encode() not in data, name


def test_summary_figures(store_path):
    summary = Summary.of(Store.open(store_path))
    num_frames = sum(-(-(40 + 5 * i) // 4) for i in range(8))
    assert (summary.num_videos, summary.num_frames) == (8, num_frames)
    assert summary.hours == pytest.approx(num_frames * 4 / 30 / 3600)
    assert summary.gigabytes == sum(p.stat().st_size for p in (store_path / "shards").iterdir()) / 1e9
    scores = pq.read_table(store_path / "index.parquet", columns=["edges_scores"])["edges_scores"]
    values = np.concatenate([np.array(row, np.float32) for row in scores.to_pylist()])
    assert summary.motion["edges"] == pytest.approx((values.mean() / 10, (values <= 0.2).mean()))


def test_store_without_motion_inputs(folder, tmp_path):
    run(folder, tmp_path / "out", motion_inputs=())
    store = Store.open(tmp_path / "out")
    assert store.meta.motion_inputs == {}
    assert store.meta.flow == "none"
    assert len(quarantine(tmp_path / "out")) == 3


def test_dry_run_estimates_and_writes_nothing(folder, store_path, tmp_path):
    config = PrepareConfig(folder, tmp_path / "out", short_side=32, workers=2, dry_run=True)
    expected = prepare(config, prepare_parts.opencv_edges)
    assert isinstance(expected, Estimate)
    assert not (tmp_path / "out").exists()
    run(folder, tmp_path / "out")
    size = sum(path.stat().st_size for path in (tmp_path / "out/shards").iterdir())
    assert expected.gigabytes * 1e9 == pytest.approx(size, rel=0.4)


def test_estimate_on_a_slow_clock(tmp_path):
    """Two seconds of it are too few frames to measure motion between."""
    write_video(tmp_path / "videos/a.mp4", moving_pictures(20, 2), fps=2)
    config = PrepareConfig(tmp_path / "videos", tmp_path / "out", short_side=32, fps=2.0, workers=1, dry_run=True)
    expected = prepare(config, prepare_parts.opencv_edges)
    assert isinstance(expected, Estimate)
    assert expected.video_hours == pytest.approx(10 / 3600, rel=0.1)


def test_extrapolation():
    samples = [Sample(1000, 10.0, 2.0, 500, 1.0), Sample(3000, 10.0, 2.0, 300, 3.0)]
    expected = extrapolate(samples, total_bytes=400_000, num_workers=4)
    seconds = 400_000 * 20 / 4000
    assert expected.video_hours == pytest.approx(seconds / 3600)
    assert expected.gigabytes == pytest.approx(seconds * 200 / 1e9)
    assert expected.hours == pytest.approx(seconds * 1.0 / 4 / 3600)


def test_shards_share_the_videos_out_in_order():
    for num in (1, 5, 127, 129, 1000, 20_000):
        videos = [f"{i:06d}" for i in range(num)]
        tasks = plan_shards(videos)
        assert [video for task in tasks for video in task.videos] == videos
        assert [task.shard for task in tasks] == list(range(len(tasks)))
        assert max(len(task.videos) for task in tasks) <= 64
        assert len(tasks) >= min(num, 64)


def test_discovery_follows_links_once(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x.MP4", "a/y.txt", "a/.z.mkv"):
        (tmp_path / name).touch()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a" / os.fsdecode(b"bad\xff.mp4")).touch()
    assert discover_videos(tmp_path) == (["a/.z.mkv", r"a/bad\xff.mp4", "a/x.MP4"], [])


def test_link_to_nothing_is_quarantined(tmp_path):
    write_video(tmp_path / "in/a.mp4", moving_pictures(20, 1))
    (tmp_path / "in/b.mp4").symlink_to("nowhere")
    run(tmp_path / "in", tmp_path / "out", workers=1)
    assert quarantine(tmp_path / "out") == {"b.mp4": "unreadable"}


def test_full_disk_is_an_error_that_says_so(folder, tmp_path):
    config = PrepareConfig(folder, tmp_path / "out", short_side=32)
    meta = StoreMeta(short_side=32, motion_inputs=motion_scales(["edges"], 10.0))
    maker = ShardMaker(folder, config.out, meta, prepare_parts.opencv_edges, None, "cpu")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PartialStore(config.out).locked():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(DataError, match=r"Writing shard 0 of .* failed: File too large"):
                maker(ShardTask(0, ("walk/0.mp4", "walk/2.mp4")), lambda report: None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (config.out / ".partial").iterdir()] == ["lock"]


def test_finished_store_is_left_alone_when_asked_for_again(folder, store_path):
    before = contents(store_path)
    run(folder, store_path, motion_inputs=("edges", "magnitude", "difference"))
    assert contents(store_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 48}, "another --short-side: it has 32, this command 48"),
        ({"grid": 2}, "another --grid"),
        ({"motion_inputs": ("edges",)}, "another --motion-inputs"),
        ({"clamp": 5.0}, "another --clamp"),
    ],
)
def test_finished_store_of_other_options(folder, store_path, options, message):
    with pytest.raises(DataError, match=f"finished store with {message}"):
        run(folder, store_path, **({"motion_inputs": ("edges", "magnitude", "difference")} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 4}, "--short-side 4: it must be at least 32 and at most 4096"),
        ({"grid": 0}, "--grid 0"),
        ({"jpeg_quality": 101}, "--jpeg-quality 101"),
        ({"fps": 0.0}, "--fps 0"),
        ({"motion_inputs": ("edges", "edges")}, "--motion-inputs edges edges"),
    ],
)
def test_options_out_of_range(folder, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        run(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def half_made(folder: Path, out: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("modist_pipelines.prepare.run.write_tables", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(folder, out, motion_inputs=())


def test_half_made_store_of_other_options(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "in")
    half_made(tmp_path / "in", tmp_path / "out", monkeypatch)
    with pytest.raises(DataError, match="half made with another --jpeg-quality: it has 90, this command 80"):
        run(tmp_path / "in", tmp_path / "out", motion_inputs=(), jpeg_quality=80)
    (tmp_path / "in/broken.avi").unlink()
    run(tmp_path / "in", tmp_path / "out", motion_inputs=())
    assert "broken.avi" not in quarantine(tmp_path / "out")


def test_no_usable_video_leaves_the_reasons(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").touch()
    for _ in range(2):  # the second run is not confused by what the first has left
        with pytest.raises(DataError, match=r"none of the 1 files can be used \(1 unreadable\)"):
            run(tmp_path / "in", tmp_path / "out", workers=1)
        assert quarantine(tmp_path / "out") == {"a.mp4": "unreadable"}
    write_video(tmp_path / "in/b.mp4", moving_pictures(20, 1))
    run(tmp_path / "in", tmp_path / "out", workers=1)


@pytest.fixture
def busy_store(tmp_path) -> Iterator[Path]:
    with PartialStore(tmp_path / "out").locked():
        yield tmp_path / "out"


def test_out_that_is_a_file(folder, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match=r"--out .* cannot be written"):
        run(folder, tmp_path / "out")


def test_videos_that_are_no_folder(folder, tmp_path):
    with pytest.raises(DataError, match=r"none of the 1 videos of .*labels\.csv"):  # a file is a list of videos
        run(folder / "labels.csv", tmp_path / "out")
    with pytest.raises(DataError, match=r"VIDEOS .* does not exist"):
        run(folder / "nothing", tmp_path / "out")


def test_two_runs_do_not_share_a_store(folder, busy_store):
    with pytest.raises(DataError, match="another modist prepare"):
        run(folder, busy_store)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(ROOT / "launch/prepare.py")]
    return subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def test_command_line_makes_a_store(folder, store_path, tmp_path):
    options = ("--short-side", 32, "--flow", "dis", "--workers", 2, "--motion-inputs", "edges", "difference")
    result = command(folder, "--out", tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    assert "8 videos" in result.stdout
    assert "1 motionless" in result.stdout
    assert "estimate:" in result.stderr
    store = Store.open(tmp_path / "out")
    assert store.num_videos == 8
    assert list(store.meta.motion_inputs) == ["edges", "difference"]
    other = Store.open(store_path)  # its edges are OpenCV's in float64
    for row in range(8):
        np.testing.assert_allclose(store.scores(row, "edges"), other.scores(row, "edges"), rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(decoded(store, row, "edges"), decoded(other, row, "edges"), strict=True):
            assert np.abs(ours.astype(int) - theirs).mean() < 0.5


def test_command_line_errors_are_a_paragraph(tmp_path):
    (tmp_path / "empty").mkdir()
    result = command(tmp_path / "empty", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "error: VIDEOS" in result.stderr
    assert "holds no video" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr

    (tmp_path / "empty/a.mp4").touch()
    result = command(tmp_path / "empty", "--out", tmp_path / "out", "--workers", 1)
    assert result.returncode == 2
    assert "none of the 1 files can be used" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
