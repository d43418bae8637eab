"""Preparing a corpus: parts on several machines, lists of videos, decoders that hang, where the time goes.

python tests/pipelines/test_prepare_at_scale.py 320    # what a tiny video costs besides decoding, flow and JPEGs
"""

import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
import torch
from made_videos import moving_pictures, write_video

from modist_pipelines.clips.ahead import ahead
from modist_pipelines.errors import DataError
from modist_pipelines.prepare.estimate import Estimate, Sample, extrapolate
from modist_pipelines.prepare.flow import make_flow_estimator, nvof_graph
from modist_pipelines.prepare.motion import motion_scales
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker, ShardTask
from modist_pipelines.store.reader import Store, StoreMeta
from modist_pipelines.store.summary import Summary

pytestmark = pytest.mark.slow

NUM_VIDEOS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for video in range(NUM_VIDEOS):
        (path / f"class{video % 2}").mkdir(exist_ok=True)
        pictures = moving_pictures(24 + 4 * video, 2, height=48, width=64, seed=video)
        write_video(path / f"class{video % 2}" / f"{video}.mp4", pictures)
    return path


def run(folder: Path, out: Path, **options: Any) -> Summary | Estimate | None:
    config = replace(PrepareConfig(folder, out, short_side=32, workers=1), **options)
    return prepare(config, prepare_parts.opencv_edges)


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "store"
    run(folder, out, workers=2)
    return contents(out)


def test_parts_of_machines_merge_to_the_same_bytes(folder, whole, tmp_path, caplog):
    out = tmp_path / "store"
    with caplog.at_level(logging.INFO, "modist"):
        assert run(folder, out, shard="2/3") is None
    assert "part 2 of 3 is done: 6 of 9 shards are still missing" in caplog.text
    with pytest.raises(DataError, match=r"--merge: 6 of the 9 shards .* are not done \(shards 0, 2, 3, 5, 6, 8,"):
        run(folder, out, merge=True)
    with pytest.raises(DataError, match="half-made"):
        Store.open(out)
    run(folder, out, shard="1/3")
    run(folder, out, shard="1/3")  # again: nothing to do
    run(folder, out, shard="3/3")
    assert isinstance(run(folder, out, merge=True), Summary)
    assert contents(out) == whole


def test_parts_at_the_same_time_and_on_disks_of_their_own(folder, whole, tmp_path):
    """Two processes at work in one folder, a third part made elsewhere and copied in."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import prepare_parts;"
        "from pathlib import Path; from modist_pipelines.prepare.run import PrepareConfig, prepare;"
        "prepare(PrepareConfig(Path(sys.argv[2]), Path(sys.argv[3]), short_side=32, workers=1, shard=sys.argv[4]),"
        "prepare_parts.opencv_edges) if __name__ == '__main__' else None"
    )
    script = tmp_path / "part.py"
    script.write_text(program.replace(";", "\n").replace("\n ", "\n"))
    out, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    arguments = [sys.executable, str(script), str(Path(prepare_parts.__file__).parent), str(folder)]
    path = os.pathsep.join(sys.path)
    started = [
        subprocess.Popen([*arguments, str(where), part], env=os.environ | {"PYTHONPATH": path})
        for where, part in ((out, "1/3"), (out, "2/3"), (elsewhere, "3/3"))
    ]
    assert [process.wait(timeout=1200) for process in started] == [0, 0, 0]
    subprocess.run(["cp", "-r", f"{elsewhere}/.", str(out)], check=True)
    run(folder, out, merge=True)
    assert contents(out) == whole


@pytest.mark.fault
def test_a_killed_part_is_taken_up_again(folder, whole, tmp_path):
    out = tmp_path / "store"
    run(folder, out, shard="1/2")
    leftover = out / ".partial" / "00001.999999.bin"  # of the other part, which may be at work
    leftover.write_bytes(b"half")
    (out / "shards" / "00002.bin").unlink()
    run(folder, out, shard="1/2")
    assert leftover.exists()
    run(folder, out, shard="2/2")
    assert not leftover.exists()
    run(folder, out, merge=True)
    assert contents(out) == whole


def test_slurm_array(folder, tmp_path, monkeypatch, caplog):
    with pytest.raises(DataError, match="this is no job array"):
        run(folder, tmp_path / "store", shard="slurm")
    for name, value in (("ID", "12"), ("MIN", "10"), ("COUNT", "9")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with caplog.at_level(logging.INFO, "modist"):
        run(folder, tmp_path / "store", shard="slurm")
    assert "part 3 of 9 is done" in caplog.text


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_part_that_is_none(folder, tmp_path, shard):
    with pytest.raises(DataError, match="give I/N with I from 1 to N"):
        run(folder, tmp_path / "store", shard=shard)


def test_part_with_other_options_is_refused(folder, tmp_path):
    run(folder, tmp_path / "store", shard="1/2")
    with pytest.raises(DataError, match=r"half made with another --jpeg-quality: it has 90, this command 80"):
        run(folder, tmp_path / "store", shard="2/2", jpeg_quality=80)
    with pytest.raises(DataError, match="pass one of the two"):
        run(folder, tmp_path / "store", shard="2/2", merge=True)


def test_list_gives_videos_and_labels(folder, tmp_path, caplog):
    listing = tmp_path / "train.csv"
    listing.write_text("path,label\nclass1/3.mp4,walk\nclass0/0.mp4,run\nclass0/99.mp4,run\n")
    with caplog.at_level(logging.WARNING, "modist"):
        run(listing, tmp_path / "store", root=folder)
    store = Store.open(tmp_path / "store")
    assert list(store.videos) == ["class0/0.mp4", "class1/3.mp4"]
    assert list(store.labels) == ["run", "walk"]
    assert "class0/99.mp4" in caplog.text


@pytest.mark.fault
def test_video_that_hangs_its_decoder_costs_itself(folder, tmp_path, caplog):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("0.mp4", "2.mp4"):
        (videos / name).symlink_to(folder / "class0" / name)
    began = time.monotonic()
    run(videos, tmp_path / "whole")
    patience = 5 * (time.monotonic() - began)  # what two videos take here, and a worker's start
    write_video(videos / "1.mp4", moving_pictures(40, 1, height=32, width=96))
    config = PrepareConfig(videos, tmp_path / "store", short_side=32, workers=1, video_timeout=patience)
    with caplog.at_level(logging.WARNING, "modist"):
        prepare(config, prepare_parts.endless_for_wide_videos)
    store = Store.open(tmp_path / "store")
    assert list(store.videos) == ["0.mp4", "2.mp4"]
    rows = pq.read_table(tmp_path / "store" / "quarantine.parquet").to_pylist()
    assert [(row["video"], row["reason"]) for row in rows] == [("1.mp4", "hung")]
    assert "1.mp4 did not get on for longer than --video-timeout" in caplog.text


def test_dry_run_names_the_stage_that_takes_longest(folder, tmp_path):
    config = PrepareConfig(folder, tmp_path / "store", short_side=32, workers=1, dry_run=True)
    expected = prepare(config, prepare_parts.slow_edges)
    assert isinstance(expected, Estimate)
    assert set(expected.stage_ms) == {"decode", "flow", "encode"}
    assert expected.stage_ms["encode"] > 2 * expected.stage_ms["flow"]
    assert expected.bottleneck().startswith("encode, ")
    assert "most of the time goes to encode" in str(expected)


def test_stages_are_added_up_over_the_sample():
    samples = [
        Sample(1000, 10.0, 2.0, 500, 1.0, 10, {"decode": 0.2, "flow": 0.7}),
        Sample(1000, 10.0, 2.0, 500, 1.0, 30, {"decode": 0.6, "flow": 0.1}),
    ]
    expected = extrapolate(samples, total_bytes=4000, num_workers=1)
    assert expected.stage_ms == pytest.approx({"decode": 20.0, "flow": 20.0})


def test_decoding_ahead_keeps_order_and_passes_errors():
    assert list(ahead(iter(range(50)))) == list(range(50))

    def faulty():
        yield 1
        raise ZeroDivisionError

    items = ahead(faulty())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)
    stopped: Any = ahead(iter(range(10**9)))
    assert next(stopped) == 0
    stopped.close()  # its thread ends, though the items do not
    assert "decode-ahead" not in {thread.name for thread in threading.enumerate()}


def test_hardware_flow_needs_a_gpu_and_its_graph_is_wired():
    serialized = nvof_graph(4, None).serialize()
    assert b"OpticalFlow" in serialized
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match=r"--flow nvof .* torch sees none here"):
            make_flow_estimator("nvof", None)


@pytest.mark.gpu
def test_hardware_flow_of_a_known_shift():
    picture = moving_pictures(1, 0, 128, 128)[0]
    moved = [np.roll(picture, shift, (0, 1)) for shift in ((0, 3), (-2, 0))]
    flows = make_flow_estimator("nvof", None)([picture, picture], moved)
    for flow, expected in zip(flows, ((3.0, 0.0), (0.0, -2.0)), strict=True):
        inner = torch.as_tensor(flow)[16:-16, 16:-16].numpy(force=True)
        for component, shift in enumerate(expected):
            assert np.median(inner[..., component]) == pytest.approx(shift, abs=0.5)


@pytest.mark.gpu
def test_hardware_flow_lies_where_the_first_frame_has_it():
    """A patch that jumps right by 12: at its old place the flow is its way; at its new one the ground stands still."""
    ground, patch = moving_pictures(2, 0, 128, 128, seed=3)[0], moving_pictures(1, 0, 40, 40, seed=5)[0]
    frames = []
    for left in (30, 42):
        frame = ground.copy()
        frame[44:84, left : left + 40] = patch
        frames.append(frame)
    (flow,) = make_flow_estimator("nvof", None)([frames[0]], [frames[1]])
    across = torch.as_tensor(flow)[..., 0].numpy(force=True)
    assert np.median(across[54:74, 34:42]) == pytest.approx(12.0, abs=2.0)  # the patch's, before it jumped
    assert abs(np.median(across[54:74, 90:110])) < 1.0


def main(num_videos: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = write_video(Path(folder, "in/0000.mp4"), moving_pictures(24, 2, height=48, width=64))
        names = tuple(f"{number:04d}.mp4" for number in range(num_videos))
        for name in names[1:]:
            shutil.copyfile(first, first.parent / name)
        meta = StoreMeta(short_side=48, motion_inputs=motion_scales(["edges"], 10.0), flow="dis")
        maker = ShardMaker(first.parent, Path(folder), meta, prepare_parts.opencv_edges, None, "cpu")
        Path(folder, ".partial").mkdir()
        gc.freeze()  # as a worker does
        maker(ShardTask(0, names[:8]), lambda report: None)
        before = dict(maker.encoder().seconds)
        began = time.perf_counter()
        for number, begin in enumerate(range(0, num_videos, 64), 1):
            maker(ShardTask(number, names[begin : begin + 64]), lambda report: None)
        whole = time.perf_counter() - began
        stages = {stage: total - before[stage] for stage, total in maker.encoder().seconds.items()}
    besides = 1e3 * (whole - sum(stages.values())) / num_videos
    said = ", ".join(f"{stage} {1e3 * seconds / num_videos:.2f} ms" for stage, seconds in stages.items())
    print(f"a tiny video: {said}, {besides:.2f} ms besides")


if __name__ == "__main__":
    main(int(sys.argv[1]))
