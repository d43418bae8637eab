"""The demo's commands; CI and users run the whole of it by `make demo`."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from clip_store import make_store

from modist_fast.commands import demo
from modist_fast.errors import ConfigError
from modist_fast.evaluation.data import demo_labels


@pytest.mark.parametrize(
    ("num_gpus", "asked", "started"), [(0, [], 2), (1, [], 1), (2, [], 2), (8, [], 2), (8, ["--num-processes", 4], 4)]
)
def test_every_process_finds_a_device(
    num_gpus: int, asked: list, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(demo, "_do", lambda title, words: commands.append(words))
    monkeypatch.setattr(demo, "_look", lambda *places: "")
    monkeypatch.setattr(demo, "_summarize", lambda *shown: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path), *map(str, asked)])
    demo.main()
    training = commands[-1]
    assert training[training.index("--nproc-per-node") + 1] == str(started)


def results(folder: Path, name: str, ranks: list[int]) -> Path:
    path = folder / f"{name}.json"
    rows = [{"video": str(place), "rank": rank} for place, rank in enumerate(ranks)]
    path.write_text(json.dumps({"top1": ranks.count(0) / len(ranks), "chance": 0.25, "videos": rows}))
    return path


def test_what_was_learned_is_said_with_the_interval_of_the_difference(tmp_path: Path) -> None:
    random = results(tmp_path, "random", [0, 1, 2, 3] * 10)
    better = demo.compared(results(tmp_path, "better", [0, 0, 0, 1] * 10), random)
    assert "75 % of 40 test videos right, random weights 25 %, chance 25 %; difference +50 points [+35, +65]" in better
    assert better.endswith("): better than random weights")
    same = demo.compared(results(tmp_path, "same", [1, 0, 2, 3] * 10), random)
    assert "difference +0 points" in same
    assert same.endswith("not surely better than random weights")


@pytest.mark.parametrize(("num", "epochs"), [(8, None), (96, None), (320, 30), (100_000, 1)])
def test_own_videos_train_for_minutes_however_many_they_are(num: int, epochs: int | None) -> None:
    assert demo._few_steps(num)[:2] == ([] if epochs is None else ["--epochs", epochs])


def test_too_few_videos_are_refused_by_their_number(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [40] * 3)
    with pytest.raises(ConfigError, match="VIDEOS holds 3 videos that can be used: a run needs 8 or more"):
        demo._num_videos(Path("VIDEOS"), tmp_path / "store")


def test_a_third_of_each_class_is_tested_and_small_classes_take_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = SimpleNamespace(labels=["a"] * 6 + ["b"] * 3 + ["c"] * 2 + [None])
    opened.videos = [f"{label}/{place}.mp4" for place, label in enumerate(opened.labels)]
    monkeypatch.setattr(demo_labels.Store, "open", lambda store: opened)
    assert demo_labels.write_labels(tmp_path, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == opened.videos[:9]
    assert [row["path"] for row in rows if row["split"] == "test"] == ["a/2.mp4", "a/5.mp4", "b/8.mp4"]
    opened.labels = ["a"] * 6 + [None] * 6
    assert not demo_labels.write_labels(tmp_path, tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()
