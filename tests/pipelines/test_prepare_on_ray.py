"""`modist prepare --engine ray`: stores from a real Ray cluster, with machines and drivers that are lost.

What starts Ray is `long`: pytest -m long tests/pipelines/test_prepare_on_ray.py
"""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import prepare_parts
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from made_videos import moving_pictures, write_video
from test_prepare_at_scale import contents

from modist_pipelines.errors import DataError
from modist_pipelines.prepare.motion import EdgeFunction
from modist_pipelines.prepare.partial import PartialStore
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker, ShardTask, VideoReport
from modist_pipelines.prepare.watch import Deaths
from modist_pipelines.prepare.workers import HUNG, LOST
from modist_pipelines.store.reader import StoreMeta
from modist_pipelines.store.summary import Summary

NUM_VIDEOS = 8
TASK = ShardTask(0, ("a.mp4", "b.mp4"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    for video in range(NUM_VIDEOS):
        (path / f"class{video % 2}").mkdir(exist_ok=True)
        write_video(path / f"class{video % 2}" / f"{video}.mp4", moving_pictures(24 + 4 * video, 2, seed=video))
    (path / "class0" / "broken.mp4").write_bytes(b"no video")
    return path


def run(folder: Path, out: Path, edges: EdgeFunction = prepare_parts.opencv_edges, **options: Any) -> Any:
    return prepare(replace(PrepareConfig(folder, out, short_side=32, workers=2), **options), edges)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, bytes]:
    """The store that processes make."""
    out = tmp_path_factory.mktemp("whole") / "store"
    run(folder, out)
    return contents(out)


def quarantine(store: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(store / "quarantine.parquet").to_pylist()
    return {row["video"]: (row["reason"], row["detail"]) for row in rows}


# ------------------------------------------------------------------------------------------------- without Ray


def test_without_ray_the_engine_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"Ray is not installed here.*modist-fast\[ray\]"):
        run(tmp_path / "nowhere", tmp_path / "out", engine="ray")


@pytest.mark.parametrize("options", [{"shard": "1/2"}, {"merge": True}])
def test_parts_are_not_for_ray(tmp_path, options):
    with pytest.raises(DataError, match="leave out --shard and --merge"):
        run(tmp_path, tmp_path / "out", engine="ray", **options)


@pytest.mark.parametrize(
    ("code", "attempts", "reason"), [(-signal.SIGSEGV, 2, "crashed"), (LOST, 3, "crashed"), (HUNG, 1, "hung")]
)
def test_a_video_is_left_out_after_so_many_ends(code, attempts, reason):
    deaths, at_b = Deaths(), VideoReport("b.mp4", "going")
    task = TASK
    for _ in range(attempts):
        assert not task.left_out
        task = deaths(task, at_b, code)
    assert {video: found[0] for video, found in task.left_out.items()} == {"b.mp4": reason}


def test_lost_machines_are_not_blamed_on_a_video_that_another_one_made():
    deaths = Deaths()
    task = TASK
    for report in (VideoReport("a.mp4", "begun"), VideoReport("b.mp4", "begun"), None, VideoReport("a.mp4", "going")):
        task = deaths(task, report, LOST)
    assert task == TASK


@pytest.mark.parametrize("code", [LOST, -signal.SIGKILL])
def test_ends_before_the_first_video_of_many_shards_do_not_add_up(code):
    deaths = Deaths()
    for shard in range(100):
        task = replace(TASK, shard=shard)
        assert deaths(task, None, code) == task


def test_workers_that_never_come_to_a_video_end_the_run():
    deaths = Deaths()
    for _ in range(9):
        assert deaths(TASK, None, LOST) == TASK
    with pytest.raises(RuntimeError, match="before they read a video"):
        deaths(TASK, None, LOST)


def test_a_machine_that_does_not_see_the_store_makes_none_of_its_own(folder, tmp_path):
    meta = StoreMeta(short_side=32, grid=4, motion_inputs={})
    maker = ShardMaker(folder, tmp_path / "store", meta, prepare_parts.opencv_edges, None, "auto")
    with pytest.raises(DataError, match="does not see the folder"):
        maker(ShardTask(0, ("class0/0.mp4",)), lambda report: None)
    assert not (tmp_path / "store").exists()


def test_files_in_the_making_are_told_apart_by_machine_and_process(monkeypatch, tmp_path):
    partial = PartialStore(tmp_path)
    partial.path.mkdir()
    names = set()
    for host in ("one", "two"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        names.add(partial.temporary(3))
        partial.temporary(3).touch()
    assert len(names) == 2
    partial.remove_leftovers([3])
    assert not list(partial.path.iterdir())


# ---------------------------------------------------------------------------------------------------- with Ray


@pytest.fixture
def paths(monkeypatch) -> None:
    """Ray's processes import what this one does."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    for name in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cluster(paths, monkeypatch) -> Iterator[tuple[Any, Any]]:
    """A head that works on nothing with two machines of one CPU each, and one of those."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'modist-fast[ray]'")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [found.add_node(num_cpus=1) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", found.address)
        yield found, machines[0]
    finally:
        found.shutdown()


@pytest.fixture
def alone(paths, monkeypatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'modist-fast[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "local")


def wait_for_shards(store: Path, number: int, begun: int, run: Future[Any]) -> int:
    """Until so many are done, and so many in the making, each of which takes seconds."""
    partial = PartialStore(store)
    while len(done := partial.finished()) < number or len(list(partial.path.glob("*.bin"))) < begun:
        assert not run.done(), run.result()
        time.sleep(0.05)
    return len(done)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_cluster_that_loses_a_machine_and_gets_another_makes_the_same_bytes(folder, whole, cluster, tmp_path, caplog):
    out = tmp_path / "store"
    machines, one = cluster
    with caplog.at_level(logging.INFO, "modist"), ThreadPoolExecutor(1) as thread:
        # Ray adds machines from the main thread alone.
        made = thread.submit(run, folder, out, prepare_parts.unhurried_edges, engine="ray")
        wait_for_shards(out, 1, 2, made)  # one on each machine
        machines.remove_node(one, allow_graceful=False)
        done = wait_for_shards(out, 4, 0, made)
        machines.add_node(num_cpus=1)
        made.result()
    assert done < NUM_VIDEOS, "it was lost in the middle"
    assert "3 machines, 2 CPUs, 0 GPUs" in caplog.text
    assert f"{NUM_VIDEOS + 1} videos to do by 2 workers" in caplog.text
    assert "a worker ended with its machine, or was killed at" in caplog.text
    assert contents(out) == whole


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("edges", "reason", "detail"),
    [
        (prepare_parts.fatal_for_wide_videos, "crashed", f"signal {signal.SIGSEGV.value}"),
        (prepare_parts.fatal_for_parents_of_wide_videos, "crashed", "with its machine, or was killed"),
        (prepare_parts.endless_for_wide_videos, "hung", "the process that read it was ended"),
    ],
)
def test_a_video_that_ends_workers_costs_itself_alone(folder, whole, alone, tmp_path, edges, reason, detail):
    wide = tmp_path / "videos" / "class1" / "wide.mp4"
    for path in folder.rglob("*.mp4"):
        copy = tmp_path / "videos" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(path)
    write_video(wide, moving_pictures(40, 1, height=32, width=96))
    out = tmp_path / "store"
    summary = run(tmp_path / "videos", out, edges, engine="ray", video_timeout=20)
    assert isinstance(summary, Summary)
    assert summary.num_videos == NUM_VIDEOS
    found = quarantine(out)
    assert found.keys() == {"class0/broken.mp4", "class1/wide.mp4"}
    assert found["class1/wide.mp4"][0] == reason
    assert detail in found["class1/wide.mp4"][1]
    if edges is prepare_parts.fatal_for_wide_videos:
        run(tmp_path / "videos", tmp_path / "plain", edges)
        assert contents(out) == contents(tmp_path / "plain")


def is_worker(process: psutil.Process) -> bool:
    """Not one of Ray's own, some of which outlive it where nobody takes note of the ends of orphans."""
    words = " ".join(process.cmdline())
    return "MapWorker" in words or "spawn_main" in words


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_whose_driver_is_killed_is_taken_up_again(folder, whole, alone, tmp_path):
    out = tmp_path / "store"
    command = [sys.executable, prepare_parts.__file__, str(folder), str(out), "2", "ray"]
    driver = subprocess.Popen(command, start_new_session=True)
    while len(done := PartialStore(out).finished()) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    workers = [process for process in psutil.Process(driver.pid).children(recursive=True) if is_worker(process)]
    assert len(workers) >= 2, "actors, and their processes"
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive, "they end with the driver"
    times = {number: (out / "shards" / f"{number:05d}.bin").stat().st_mtime_ns for number in done}
    run(folder, out, engine="ray")
    assert contents(out) == whole
    assert {number: (out / "shards" / f"{number:05d}.bin").stat().st_mtime_ns for number in done} == times


@pytest.mark.long
@pytest.mark.timeout(600)
def test_faults_are_raised_here_and_leave_what_is_done(folder, whole, alone, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError, match="a fault of the program"):
        run(folder, tmp_path / "faulty", prepare_parts.faulty_edges, engine="ray")
    with pytest.raises(DataError, match=r"Writing shard \d of .* failed: No space left"):
        run(folder, tmp_path / "full", prepare_parts.full_disk_edges, engine="ray")
    run(folder, tmp_path / "full", engine="ray")
    assert contents(tmp_path / "full") == whole
    from modist_pipelines.prepare.on_ray import pool

    monkeypatch.setattr(pool, "versions", lambda mine=pool.versions: {**mine(), "av": "1.2.3"})
    with pytest.raises(DataError, match=r"has av .* instead of 1\.2\.3, and would make other bytes"):
        run(folder, tmp_path / "apart", engine="ray")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPUs here")
def test_gpus_that_torch_does_not_see_are_no_reason_to_use_cpus(folder, alone, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", partial(ray.init, num_gpus=2))  # Ray believes it
    with pytest.raises(DataError, match=r"--flow nvof: Ray counts 2 GPUs, and torch .* sees none"):
        run(folder, tmp_path / "out", engine="ray", flow="nvof")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_workers_share_gpus_by_fractions(alone):
    import ray

    from modist_pipelines.prepare.on_ray.pool import RayPool

    seen: list[Any] = []
    ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False)  # Ray believes it
    with RayPool(4, gpu_share=0.5) as pool:
        pool.run(list(range(8)), prepare_parts.tell_gpus, lambda _, gpus: seen.append(gpus), lambda *_: None)
    assert len(seen) == 8
    assert set(seen) == {"0", "1"}, "each worker sees the one that it is on"


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:1", "no Ray cluster answers there"), ("ray://head:10001", "must be HOST:PORT")]
)
def test_an_address_without_a_cluster_is_refused_at_once(folder, tmp_path, monkeypatch, address, said):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'modist-fast[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(DataError, match=f"RAY_ADDRESS is {address}.*{said}"):
        run(folder, tmp_path / "out", engine="ray")
