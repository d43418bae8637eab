"""Training on a store with damaged frames: any number of processes leaves out the same samples, and goes on."""

import shutil
from pathlib import Path

import pytest
import torch

from modist_fast.watch.run_log import read_metrics
from modist_pipelines.plan import video_order
from modist_pipelines.store.reader import Store, shard_path
from tests.commands.launching import newest, run_script
from tests.commands.test_pretrain import options

pytestmark = [pytest.mark.slow, pytest.mark.fault]

BATCH = 16


@pytest.fixture(scope="module")
def hurt_store(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo store, with a byte wrong in every RGB frame of the videos that rank 1 of 2 has in the first step."""
    path = tmp_path_factory.mktemp("hurt") / "store"
    shutil.copytree(demo_store, path)
    store = Store.open(path)
    for video in video_order(0, 0, store.num_videos)[BATCH // 2 : BATCH]:
        offsets = store._offsets["rgb"][video]
        with shard_path(path, store.shard(video)).open("r+b") as file:
            for frame in range(len(offsets) - 1):
                file.seek(int(offsets[frame]) + 200)
                byte = file.read(1)[0]
                file.seek(int(offsets[frame]) + 200)
                file.write(bytes([byte ^ 0xFF]))
    return path


@pytest.mark.long
def test_any_number_of_processes_leaves_out_the_same(hurt_store: Path, tmp_path: Path) -> None:
    runs = {}
    for processes in (None, 2):
        run = tmp_path / f"run-{processes}"
        done = run_script("pretrain.py", *options(hurt_store, run), processes=processes)
        assert done.returncode == 0, done.stderr
        assert "is damaged and left out of epoch" in done.stderr
        runs[processes] = read_metrics(run / "metrics.jsonl")
    one, two = runs[None], runs[2]
    damaged = [row["videos_damaged"] for row in one]
    assert damaged[0] == BATCH // 2  # all that rank 1 has
    assert damaged == [row["videos_damaged"] for row in two]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-3)
    banks = [torch.load(newest(tmp_path / f"run-{n}"))["model"]["bank.video_ids"] for n in runs]
    assert torch.equal(*banks)
    # Every sample of ten steps went in, a damaged one as an empty slot.
    num_samples = BATCH * len(one)
    last = banks[0].roll(-(num_samples % len(banks[0])))
    in_bank = sum(damaged[-len(last) // BATCH :])
    assert int((last < 0).sum()) == in_bank
