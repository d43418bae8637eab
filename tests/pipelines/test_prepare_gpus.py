"""Preparing on GPUs that are not there: who works where, and what --dry-run says of it."""

import logging
import os
from pathlib import Path

import prepare_parts
import pytest
import torch
from made_videos import moving_pictures, write_video

from modist_pipelines.prepare import run as run_module
from modist_pipelines.prepare import shards, workers
from modist_pipelines.prepare.estimate import Estimate
from modist_pipelines.prepare.placement import free_bytes, place, worker_bytes
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker
from modist_pipelines.prepare.workers import WorkerPool
from modist_pipelines.store.reader import StoreMeta

ONE = worker_bytes("raft-large", 256)


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(
    ("asked", "free", "said"),
    [
        (0, [], "64 workers, no GPU"),
        (3, [], "3 workers, no GPU"),
        (0, [80e9], "4 workers on 1 GPU, 4 a GPU"),
        (0, [80e9] * 8, "32 workers on 8 GPUs, 4 a GPU"),
        (0, [80e9, 2.5 * ONE], "4 workers on 2 GPUs, 2 a GPU"),  # the fullest GPU decides
        (0, [3.5 * ONE] * 2, "6 workers on 2 GPUs, 3 a GPU"),
        (0, [0.5 * ONE], "1 worker on 1 GPU, 1 a GPU"),
        (5, [80e9] * 2, "5 workers on 2 GPUs, 3 a GPU"),
        (1, [80e9] * 2, "1 worker on 1 GPU, 1 a GPU"),
    ],
)
def test_workers_of_a_machine(cores, asked, free, said):
    assert str(place(asked, free, "raft-large", 256)) == said


def test_few_cores_leave_no_gpu_idle(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert str(place(0, [80e9] * 2, "nvof", 256)) == "3 workers on 2 GPUs, 2 a GPU"
    assert str(place(0, [80e9] * 4, "nvof", 256)) == "4 workers on 4 GPUs, 1 a GPU"


def test_a_worker_takes_the_memory_of_its_frames():
    assert worker_bytes("nvof", 256) < worker_bytes("raft-large", 144) < worker_bytes("raft-large", 256)


def test_a_worker_keeps_its_number_when_it_is_replaced(tmp_path):
    reports, deaths = [], []

    def on_death(task, report, code):
        deaths.append(code)
        return task

    with WorkerPool(3) as pool:
        pool.run([tmp_path / "died", *range(6)], prepare_parts.tell_number, lambda _, n: reports.append(n), on_death)
    assert deaths == [1]
    assert set(reports) <= {0, 1, 2}
    assert 0 in reports, "the successor of the first"


@pytest.mark.parametrize("num_gpus", [0, 1, 3])
def test_worker_i_is_on_gpu_i_modulo_their_number(monkeypatch, tmp_path, num_gpus):
    meta = StoreMeta(short_side=32, grid=4, motion_inputs={})
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(shards, "make_encoder", lambda *_: object())
    for number in range(5):
        monkeypatch.setattr(workers, "_number", number)
        maker = ShardMaker(tmp_path, tmp_path, meta, prepare_parts.opencv_edges, None, "auto", num_gpus)
        assert maker.encoder() is maker.encoder()
    assert chosen == ([number % num_gpus for number in range(5)] if num_gpus else [])


def test_dry_run_says_workers_and_gpus(cores, monkeypatch, tmp_path, caplog):
    from torchvision.models.optical_flow import raft_small

    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    write_video(tmp_path / "videos" / "0.mp4", moving_pictures(20, 1))
    monkeypatch.setattr(run_module, "uses_gpu", lambda *_: True)
    monkeypatch.setattr(run_module, "free_bytes", lambda: [80e9] * 3)
    made: list[ShardMaker] = []

    def estimate(videos: list[str], maker: ShardMaker, *_: object) -> Estimate:
        made.append(maker)
        return Estimate.of_nothing()

    monkeypatch.setattr(run_module, "estimate", estimate)
    options = {"flow": "raft-small", "raft_weights": tmp_path / "raft.pth", "dry_run": True}
    with caplog.at_level(logging.INFO, "modist"):
        prepare(PrepareConfig(tmp_path / "videos", tmp_path / "out", **options), prepare_parts.opencv_edges)
    assert "1 videos to do by 12 workers on 3 GPUs, 4 a GPU" in caplog.text
    assert [maker.num_gpus for maker in made] == [3]
    assert not Path(tmp_path / "out").exists()


def test_a_machine_without_gpus_has_no_free_memory():
    if not torch.cuda.is_available():
        assert free_bytes() == []
