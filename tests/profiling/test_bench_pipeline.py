"""The pipeline benchmark: peers decode the frames they should, counters count, and the whole table runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_raw import write_video

from modist_pipelines.video.frames import torchcodec_loads
from modist_pipelines.video.index import VideoIndex
from modist_pipelines.video.picture import upright_rgb
from modist_pipelines.video.reader import VideoReader
from modist_profiling.data.bench import clip_row, indexed_videos, ratios_of
from modist_profiling.data.peers import DECODERS, PeerClips, planned_frames
from modist_profiling.data.worker import num_decoded

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("peer", DECODERS)
def test_peer_decodes_the_frames_it_is_asked_for(tmp_path, peer):
    if peer == "decord2":
        pytest.importorskip("decord", reason="decord2 is not installed")
    if peer == "torchcodec" and not torchcodec_loads():
        pytest.skip("torchcodec or its FFmpeg libraries are not installed")
    path = tmp_path / "v.mp4"
    write_video(path, 61)
    with VideoReader(path) as reader:
        every = [upright_rgb(frame).astype(int) for frame in reader.decoded_frames()]
    wanted = [9, 10, 26, 33, 60]
    found = DECODERS[peer](str(path), wanted)
    for picture, number in zip(found.astype(int), wanted, strict=True):
        distances = [np.abs(picture - other).mean() for other in every]
        assert int(np.argmin(distances)) == number


def test_a_sample_is_what_our_own_is(tmp_path):
    write_video(tmp_path / "v.mp4", 61)
    clips = PeerClips([tmp_path / "v.mp4"], [61], "pyav", augment=True, crop_size=32)
    sample = clips[3]
    assert sample["visual"].shape == (2, 3, 8, 32, 32)
    assert sample["motion"].shape == (2, 1, 16, 32, 32)
    assert 0 <= sample["motion"].min() < sample["motion"].max() <= 1
    _, (query, key, motion, _) = planned_frames(3, [61])
    assert np.diff(query).tolist() == [8] * 7
    assert np.diff(motion[motion < 60]).tolist() == [4] * (np.count_nonzero(motion < 60) - 1)
    assert max(query.max(), key.max()) <= 60


def test_videos_of_any_name_and_beside_broken_ones(tmp_path, monkeypatch):
    write_video(tmp_path / "12:30:05.mp4", 61)
    (tmp_path / "broken.mp4").write_text("no video")
    monkeypatch.chdir(tmp_path)
    assert indexed_videos(Path()) == ["12:30:05.mp4"]
    clips = PeerClips([Path("12:30:05.mp4")], [61], "pyav", augment=False, crop_size=32)
    assert clips[0]["visual"].std() > 0


def test_frames_decoded_of_a_known_file():
    """Key frames at 0, 10 and 20; no reordering."""
    every = np.arange(30)
    index = VideoIndex(nominal=every, pts=every, order=every, keys=np.array([0, 10, 20]))
    assert num_decoded("torchcodec", index, [12, 25]) == 3 + 6
    assert num_decoded("opencv", index, [12, 25]) == 16  # from the key frame before the first to the last
    assert num_decoded("pyav", index, [3]) == 4


def test_ratios_take_the_best_peer():
    rows = []
    for augment in (False, True):
        for kind, workers, ms, decoded in (
            ("store", 0, 10.0 + augment, 4),
            ("raw", 0, 70.0, 12),
            ("pyav", 0, 90.0, 20),
            ("opencv", 1, 55.0, 20),
        ):
            counted = {"samples": 2, "frames_used": 4, "frames_decoded": decoded, "bytes_read": 1, "bytes_needed": 2}
            rows.append(clip_row(kind, workers, augment))
            rows[-1].add({"time": 50.0, "cpu_time": 2 * ms, "peak_mb": 1.0, **counted})
    found = ratios_of([*rows, clip_row("decord2", 0, False)])
    assert found["cpu_speedup_vs_best_peer_plain"] == 5.5
    assert found["cpu_speedup_vs_best_peer_augmented"] == 5.0
    assert (found["store_amplification"], found["raw_amplification"]) == (1.0, 3.0)
    assert rows[0].cells()["samples/s"] == "40.0"


@pytest.mark.long
def test_whole_table_runs(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.mp4", 70)
    command = [sys.executable, "profiling/bench_pipeline.py", "--videos", tmp_path / "videos", "--rounds", "1"]
    command += [
        "--rows",
        "store",
        "raw",
        "opencv",
        "--samples",
        "2",
        "--workers",
        "0",
        "--json",
        tmp_path / "t.json",
        "--plot",
        tmp_path / "t.png",
    ]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["ratios"]["store_amplification"] == 1.0
    assert record["ratios"]["store_bytes_read_vs_needed"] == 1.0
    assert record["ratios"]["raw_amplification"] > 0.5
    assert len(record["rows"]) == 2 * 3
    assert all(row["missing"] or row["frames_used"] >= 2 * 48 for row in record["rows"])
    assert (tmp_path / "t.png").stat().st_size > 10_000
