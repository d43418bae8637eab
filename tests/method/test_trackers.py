"""--track: what the libraries are told, by stand-ins for them; groups of curves; the contact sheet beside them."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modist_fast.errors import ConfigError
from modist_fast.track.trackers import grouped, open_tracker
from modist_fast.watch.run_log import RunLog


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss", "loss/all"),
        ("loss_visual_to_motion", "loss/visual_to_motion"),
        ("top1_visual", "top-1/visual"),
        ("uniformity_motion", "health/uniformity_motion"),
        ("samples_per_s", "speed/samples_per_s"),
        ("host_mb", "memory/host_mb"),
        ("lr", "schedule/lr"),
        ("something_new", "other/something_new"),
    ],
)
def test_figures_stand_in_groups(name, tag):
    assert grouped(name) == tag


def wandb(told):
    module: Any = ModuleType("wandb")
    run = SimpleNamespace(
        log=lambda figures, step=None: told.append((step, figures)), finish=lambda: told.append("closed")
    )
    module.Image = lambda path: f"image {path}"
    module.init = lambda **options: told.append(options) or run
    return module


def mlflow(told):
    module: Any = ModuleType("mlflow")
    module.set_tracking_uri = lambda uri: told.append(uri)
    module.set_experiment = lambda name: None
    module.start_run = lambda run_name: SimpleNamespace(info=SimpleNamespace(run_id="7"))
    module.log_dict = lambda options, path, run_id: told.append(options)
    module.log_metrics = lambda figures, step, run_id: told.append((step, figures))
    module.log_artifact = lambda path, run_id: told.append(path)
    module.end_run = lambda: told.append("closed")
    return module


def follow(name, tmp_path):
    """Two lines of a run, one with a loss that is no number, and its contact sheet."""
    picture = tmp_path / "clips.png"
    Image.new("RGB", (6, 4), "red").save(picture)
    with RunLog(tmp_path, 0, open_tracker(name, tmp_path, {"epochs": 3})) as log:
        log.picture("clips", picture)
        log.write({"step": 1, "loss": 2.5, "spans": {"keys": 1.0}})
        log.write({"step": 2, "loss": float("nan"), "lr": 0.1})
    return picture


def test_wandb_is_told_all_of_it_and_a_resumed_run_is_the_same(tmp_path, monkeypatch):
    told = []
    monkeypatch.setitem(sys.modules, "wandb", wandb(told))
    picture = follow("wandb", tmp_path)
    first = told[0]
    assert (first["config"], first["resume"], first["dir"]) == ({"epochs": 3}, "allow", str(tmp_path))
    assert told[1:] == [
        (None, {"clips": f"image {picture}"}),
        (1, {"loss/all": 2.5}),
        (2, {"schedule/lr": 0.1}),
        "closed",
    ]
    follow("wandb", tmp_path)
    assert told[5]["id"] == first["id"]
    open_tracker("wandb", tmp_path / "other", {})
    assert told[-1]["id"] != first["id"]


def test_mlflow_is_told_by_the_runs_id_and_keeps_it_in_the_run(tmp_path, monkeypatch):
    told = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow(told))
    picture = follow("mlflow", tmp_path)
    assert told == [
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        {"epochs": 3},
        str(picture),
        (1, {"loss/all": 2.5}),
        (2, {"schedule/lr": 0.1}),
        "closed",
    ]


def test_none_tells_nobody_and_the_picture_is_in_tensorboard(tmp_path):
    follow("none", tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["images"] == ["clips"]
    assert set(board.Tags()["scalars"]) == {"loss/all", "schedule/lr"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_not_there_is_named_with_the_way_out(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"--track {name}: .*not installed.*pip install {name}"):
        open_tracker(name, tmp_path, {})
