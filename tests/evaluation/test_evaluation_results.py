"""Figures against loops: ranks, classes, confusions, intervals; odd videos count as wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from clip_store import make_store
from PIL import Image

from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import LabelledConfig
from modist_fast.evaluation.data.labelled import LabelledVideos, _chosen
from modist_fast.evaluation.data.splits import Fold
from modist_fast.evaluation.results import classification, print_result, ranks_of_truth, write_result
from modist_fast.evaluation.statistics import bootstrap_interval
from modist_pipelines.lists.entry import Entry

NUM = 40
CLASSES = list("abcdefg")


@pytest.fixture
def labelled(tmp_path: Path) -> LabelledVideos:
    names = [f"{n:04d}.mp4" for n in range(NUM)]
    labels = np.arange(NUM) % 7
    return LabelledVideos(
        source=make_store(tmp_path / "store", [3] * NUM),
        names=names,
        rows=np.arange(NUM),
        labels=labels,
        classes=CLASSES,
        columns={},
        groups=[f"g{n // 8}" for n in range(NUM)],
        odd={5: "too_short", 30: "unreadable"},
    )


@pytest.fixture
def folds() -> list[Fold]:
    halves = np.arange(20), np.arange(20, NUM)
    return [Fold("first", halves[1], halves[0]), Fold("second", halves[0], halves[1])]


@pytest.fixture
def probabilities(labelled: LabelledVideos) -> np.ndarray:
    found = np.random.default_rng(0).dirichlet(np.ones(7), NUM)
    found[np.arange(NUM), labelled.labels] += np.random.default_rng(1).random(NUM) * 0.4
    found[list(labelled.odd)] = np.nan
    return found


def test_classification_is_that_of_a_loop(
    labelled: LabelledVideos, folds: list[Fold], probabilities: np.ndarray, tmp_path: Path
) -> None:
    result = classification(labelled, labelled.odd, folds, [probabilities[:20], probabilities[20:]])
    right, in_five, confusion = [], 0, np.zeros((7, 8), int)
    for video in range(NUM):
        label, row = int(labelled.labels[video]), probabilities[video]
        guess = 7 if video in labelled.odd else max(range(7), key=lambda c, row=row: row[c])
        better = 7 if video in labelled.odd else sum(row[c] > row[label] for c in range(7))
        right.append(better == 0)
        in_five += better < 5
        confusion[label, guess] += 1
        noted = result["videos"][video]
        assert noted["rank"] == better
        assert noted["predicted"] == (None if guess == 7 else CLASSES[guess])
        assert noted["fold"] == ("first" if video < 20 else "second")
    assert 0.2 < np.mean(right) < 0.9
    assert result["top1"] == pytest.approx(np.mean(right))
    assert result["top5"] == pytest.approx(in_five / NUM)
    assert result["confusion"] == confusion.tolist()
    assert [fold["top1"] for fold in result["folds"]] == pytest.approx([np.mean(right[:20]), np.mean(right[20:])])
    for label, row in enumerate(result["classes"]):
        assert row["top1"] == pytest.approx(np.mean([r for v, r in enumerate(right) if v % 7 == label]))
    assert (result["num_test"], result["num_odd"]) == (NUM, 2)
    low, high = result["interval"]
    assert low < result["top1"] < high
    write_result(tmp_path / "out", {"task": "linear"} | result)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["confusion"] == confusion.tolist()
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_equal_probabilities_rank_as_the_prediction_takes_them() -> None:
    rows = np.array([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4], [np.nan] * 3])
    assert ranks_of_truth(rows, np.array([1, 2, 0])).tolist() == [0, 1, 3]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_covers_what_it_promises(grouped: bool) -> None:
    """Of many samples of a known mean, 95 % of the intervals hold it; with groups of alike videos, only theirs do."""
    random = np.random.default_rng(0)
    held = {"videos": 0, "groups": 0}
    groups = [str(n // 5) for n in range(200)]
    for trial in range(60):
        draws = random.random(40).repeat(5) if grouped else random.random(200)
        values = (draws < 0.6).astype(float)
        for kind, names in (("videos", None), ("groups", groups)):
            low, high = bootstrap_interval(values, names, seed=trial)
            held[kind] += low <= 0.6 <= high
    assert held["groups"] >= 50
    if grouped:
        assert held["videos"] < 48
    else:
        assert held["videos"] >= 50


def test_the_interval_is_seeded() -> None:
    values = (np.arange(50) % 3 == 0).astype(float)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, ["one"] * len(values), seed=1) == bootstrap_interval(values, seed=1)
    low, high = bootstrap_interval(values, seed=1)
    spread = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 50)
    assert (high - low) / 2 == pytest.approx(spread, rel=0.15)


def test_a_result_says_whose_its_intervals_are_and_what_told_the_shape(capsys):
    result = {
        "task": "linear",
        "backbone": {"origin": "RUN"},
        "odd": [],
        "top1": 0.5,
        "num_test": 40,
        "interval": (0.4, 0.6),
        "interval_over_groups": (0.2, 0.8),
        "shape_probe": {"top1": 0.45, "cues": {"width": 0.2, "height": 0.4, "length": 0.1}},
    }
    print_result(result)
    said = capsys.readouterr().out
    assert "top1 50.0 %  (95 % of top1: [40.0, 60.0] over test videos, [20.0, 80.0] over whole groups)" in said
    assert "45.0 %, most by height (alone: width 20.0 %, height 40.0 %, length 10.0 %)" in said
    result["shape_probe"] = {"top1": 0.1, "cues": {}}
    print_result(result)
    assert "from the shape of the frame alone: 10.0 %\n" in capsys.readouterr().out


def test_a_label_column_that_is_not_there_names_those_that_are():
    listed = {"a.mp4": Entry(("a.mp4",), "x", {"split": "test", "label": "x"})}
    with pytest.raises(ConfigError, match=r"--label-column kind: no video has a label there.*it has label, split\."):
        _chosen(LabelledConfig(label_column="kind"), listed)
