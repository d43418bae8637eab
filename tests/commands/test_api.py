"""The commands as functions: what a notebook does, in one process, twice, and without an end of it."""

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

import modist_fast
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import FeaturesConfig
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.run.options import as_typed
from modist_pipelines.errors import DataError
from modist_pipelines.store.reader import Store
from tests.commands.launching import REPOSITORY, run_script
from tests.evaluation.evaluation_sets import demo_rows, write_list

pytestmark = pytest.mark.slow
NUM_STEPS = 6


def config_of(store: Path, out: Path):
    base = modist_fast.presets.demo(store, out)
    model = replace(base.model, visual_width=8)
    return replace(
        base,
        model=model,
        device="cpu",
        precision="fp32",
        max_steps=NUM_STEPS,
        batch_size=8,
        group_size=4,
        clips=replace(base.clips, crop_size=32),
        objective=replace(base.objective, bank_size=16),
    )


@pytest.fixture(scope="module")
def run(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained from Python; what it showed lies beside it."""
    out = tmp_path_factory.mktemp("api") / "run"
    seen: list[tuple[int, int, float]] = []
    torch.backends.cudnn.benchmark = True
    found, shards = state(), open_shards()
    before = signal.getsignal(signal.SIGTERM)
    path = modist_fast.pretrain(
        config_of(demo_store, out), progress=lambda step, total, row: seen.append((step, total, row["loss"]))
    )
    assert path == out
    assert [(step, total) for step, total, _ in seen] == [(step, NUM_STEPS) for step in range(1, NUM_STEPS + 1)]
    assert all(np.isfinite(loss) for *_, loss in seen)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not dist.is_initialized()
    assert state() == found
    assert open_shards() <= shards
    torch.backends.cudnn.benchmark = False
    return out


def state() -> tuple[object, ...]:
    """What a call must leave as it was."""
    return (
        torch.get_rng_state().tolist(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        cv2.getNumThreads(),
        [*logging.getLogger().handlers, *logging.getLogger("modist").handlers],
        logging.getLogger("modist").level,
    )


def open_shards() -> set[str]:
    """Files of stores that this process holds; what earlier tests have let go may close at any moment."""
    gc.collect()
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return {path for path in map(os.path.realpath, names) if path.endswith(".bin")}


def test_a_bar_is_shown_and_a_second_run_fits_into_the_process(
    run: Path, demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modist_fast.pretrain(config_of(demo_store, tmp_path / "again"))
    shown = capsys.readouterr().err
    assert f"{NUM_STEPS}/{NUM_STEPS}" in shown
    assert "loss=" in shown
    first, second = (modist_fast.load_backbone(path).state_dict() for path in (run, tmp_path / "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_errors_are_the_commands_own(run: Path, demo_store: Path, tmp_path: Path) -> None:
    bad = replace(config_of(demo_store, tmp_path / "bad"), batch_size=7)
    with pytest.raises(ConfigError) as caught:
        modist_fast.pretrain(bad, progress=False)
    words = ["--preset", "demo", "--store", demo_store, "--out", tmp_path / "bad", "--batch-size", 7]
    said = run_script("pretrain.py", *words, "--group-size", 4, "--device", "cpu")
    assert said.returncode == 2
    assert " ".join(str(caught.value).split()) in " ".join(said.stderr.split())
    with pytest.raises(ConfigError, match="already holds a run"):
        modist_fast.pretrain(replace(config_of(demo_store, run)), progress=False)
    labels = write_list(tmp_path / "labels.csv", demo_rows(demo_store))
    found, shards = state(), open_shards()
    base = config_of(demo_store, tmp_path / "bad")
    magnitude = replace(base, clips=replace(base.clips, motion_input="magnitude"))
    with pytest.raises(DataError, match="holds no 'magnitude'"):
        modist_fast.pretrain(magnitude, progress=False)
    with pytest.raises(ConfigError, match=r"There is no option labls\. Did you mean labels\?"):
        modist_fast.evaluate_linear(run, tmp_path / "linear", store=demo_store, labls=labels)
    with pytest.raises(ConfigError, match=r"--recipe sdg: one of lbfgs, sgd\. Did you mean sgd\?"):
        modist_fast.evaluate_linear(run, tmp_path / "linear", store=demo_store, labels=labels, recipe="sdg")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match="in a process group already"):
            modist_fast.knn(run, tmp_path / "knn", store=demo_store, labels=labels)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
    assert state() == found
    assert open_shards() <= shards
    with pytest.raises(ConfigError, match="does not exist"):
        modist_fast.features(tmp_path / "nothing", demo_store.parent / "videos", folder=tmp_path / "f")


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("", {"device": "gpu"}, "--device gpu: one of auto, cpu, cuda"),  # it ran on the CPU
        ("", {"resume": "yes"}, "--resume yes: one of no, auto"),
        ("", {"batch_size": "8"}, "--batch-size '8': int is wanted, not str"),
        ("", {"max_steps": 2.5}, "--max-steps 2.5: int or None is wanted, not float"),
        ("optim", {"name": "sdg"}, "--optim.name sdg: one of sgd, lars, lamb. Did you mean sgd?"),
        ("objective", {"shuffle_bn": 1}, "--objective.shuffle-bn 1: bool is wanted, not int"),
        ("clips", {"augmentation": None}, "--clips.augmentation None: Augmentation is wanted, not NoneType"),
    ],
)
def test_what_the_command_line_cannot_even_read_is_refused(
    tmp_path: Path, part: str, values: dict[str, Any], message: str
) -> None:
    config = config_of(tmp_path / "store", tmp_path / "run")
    bad = replace(config, **({part: replace(getattr(config, part), **values)} if part else values))
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        modist_fast.pretrain(bad, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", modist_fast.presets.PRESETS.values())
def test_presets_are_as_the_command_line_makes_them(recipe: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing of them is refused, and text is as good as a Path."""
    assert as_typed(recipe(str(tmp_path), "out")) == recipe(tmp_path, Path("out"))


def test_scores_are_those_of_the_command(run: Path, demo_store: Path, tmp_path: Path) -> None:
    labels = write_list(tmp_path / "labels.csv", demo_rows(demo_store))
    views = ViewsConfig(temporal=2, spatial=1)
    seen: list[tuple[int, int]] = []
    found = modist_fast.evaluate_linear(
        run,
        tmp_path / "linear",
        store=demo_store,
        labels=labels,
        views=views,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]  # shards of 16 videos
    words = ["--views.temporal", 2, "--views.spatial", 1, "--out", tmp_path / "command", "--device", "auto"]
    said = run_script("evaluate.py", "linear", "--backbone", run, "--store", demo_store, "--labels", labels, *words)
    assert said.returncode == 0, said.stderr
    result = json.loads((tmp_path / "command" / "result.json").read_text())
    assert [row["probability"] for row in found["videos"]] == [row["probability"] for row in result["videos"]]
    near = modist_fast.knn(run, tmp_path / "knn", store=demo_store, labels=labels, views=views)
    assert near["task"] == "knn"
    assert 0 <= near["top1"] <= 1


def test_features_of_plain_videos(run: Path, demo_store: Path, tmp_path: Path) -> None:
    """From files: as many views as asked, at the times that are said, and what is seen is what is there."""
    videos = sorted((demo_store.parent / "videos").rglob("*.mp4"))[:3]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    seen: list[tuple[int, int]] = []
    table = modist_fast.features(
        run,
        [*videos, tmp_path / "broken.mp4"],
        folder=tmp_path / "features",
        views=ViewsConfig(temporal=1, spatial=1),
        features=FeaturesConfig(folder=tmp_path / "features", precision="fp32"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [Path(name).name for name in table.names] == [path.name for path in videos]
    assert table.features.shape[:2] == (3, 1)
    assert [Path(name).name for name in table.odd] == ["broken.mp4"]
    assert seen == [(1, 1)]
    net = modist_fast.load_backbone(run)
    for path, found, (times,) in zip(videos, table.features, table.times, strict=True):
        with av.open(str(path)) as container:
            fps = float(container.streams.video[0].average_rate or 0)
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        # The frames on show at the times that the table says, as a video of their own, whose middle is all of it.
        shown = frames[(np.linspace(times[0], times[1], 8) * fps + 1e-6).astype(int)].repeat(8, axis=0)[: 7 * 8 + 1]
        with torch.no_grad():
            expected = net(net.preprocess(shown))  # pyright: ignore[reportCallIssue]
            middle = net(net.preprocess(frames, fps))  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0.02, atol=0.02 * float(expected.max()))
        # The middle may be a grid frame apart there: its clock counts every fourth.
        assert torch.nn.functional.cosine_similarity(middle, expected) > 0.9
        assert 0 <= times[0] < times[1] <= len(frames) / fps


def test_the_command_writes_a_row_for_every_clip(run: Path, demo_store: Path, tmp_path: Path) -> None:
    store = Store.open(demo_store)
    every = 0.5
    words = ["-m", "modist_fast", "features", demo_store, "--backbone", run, "--every", every, "--device", "cpu"]
    for name in ("f.parquet", "f.safetensors"):
        done = subprocess.run(
            [sys.executable, *map(str, [*words, "--out", tmp_path / name, "--features.folder", tmp_path / "kept"])],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "f.parquet").to_pydict()
    span = 7 * (8 // store.grid)  # grid frames of the demo's clip of 8 frames, 8 apart
    step = round(every * store.fps / store.grid)
    expected = []
    for row, name in enumerate(store.videos):
        starts = range(0, max(1, store.info(row).num_frames - span), step)
        expected += [(name, start * store.grid / store.fps) for start in starts]
    assert rows["video"] == [name for name, _ in expected]
    assert rows["start"] == pytest.approx([start for _, start in expected])
    with safe_open(tmp_path / "f.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("features")[:, 0], np.array(rows["features"], np.float32))
