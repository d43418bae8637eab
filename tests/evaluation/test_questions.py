"""The tables of docs/evidence.md: what their arms change, folds that leave people out, pools, power, histograms."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from scipy import stats

from modist_fast.ablation.config import AblationConfig
from modist_fast.ablation.corpora import listed_videos
from modist_fast.ablation.experiment import Ablation, Run
from modist_fast.ablation.flow_histograms import flow_histograms
from modist_fast.ablation.power import power_lines
from modist_fast.ablation.questions import QUESTIONS, TABLES, TableName
from modist_fast.ablation.report import write_report
from modist_fast.commands import ablate
from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.statistics import bootstrap_means, estimate, power
from modist_fast.presets import find_preset
from modist_fast.run.checkpoint import plain_config
from modist_fast.run.options import spelled

pytestmark = pytest.mark.slow

ACTORS, SEQUENCES = [f"actor-{n}" for n in range(9)], [f"s{n:02d}" for n in range(20)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A manifest like that of the real videos, without any."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"set": name, "file": f"{name}/{kind}/{group}.avi", "class": kind, "group": group, "split": split}
        for name, groups, kinds in (
            ("weizmann", ACTORS, "ab"),
            ("ut_interaction", SEQUENCES, "cd"),
            ("ucf101_6", "xy", "ef"),
        )
        for place, group in enumerate(groups)
        for kind in kinds
        for split in ("test" if place % 2 else "train",)
    ]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def ablation_of(table: TableName, data: Path, **more: Any) -> Ablation:
    return Ablation(AblationConfig(table, data.parent / "out", data=data, sets=("real",), **more))


def options_of(ablation: Ablation, run: Run) -> Mapping[str, object]:
    words = list(ablation.training(run).command)
    words = words[words.index("--preset") :]
    return spelled(plain_config(tyro.cli(TrainConfig, default=find_preset("small")(None, tyro.MISSING), args=words)))


@pytest.mark.parametrize("name", QUESTIONS)
def test_arms_of_a_question_are_different_runs_and_those_of_one_name_are_the_same_everywhere(
    name: TableName, data: Path
) -> None:
    ablation = ablation_of(name, data, seeds=(0,))
    corpus = ablation.corpora[0]
    found = {arm.name: dict(options_of(ablation, Run(corpus, arm, 0))) for arm in ablation.table.arms if arm.trained}
    for options in found.values():
        del options["out"]
    assert len({json.dumps(options, default=str) for options in found.values()}) == len(found)
    for other, table in TABLES.items():
        for arm in table.arms:
            mine = {one.name: one for one in ablation.table.arms}.get(arm.name)
            assert mine is None or mine == arm, f"{arm.name} of {other}"
    assert {arm for pair in ablation.table.comparisons for arm in pair} <= {arm.name for arm in ablation.table.arms}


def test_the_controls_change_what_the_motion_clips_show_and_nothing_else(data: Path) -> None:
    ablation = ablation_of("controls", data, seeds=(0,))
    arms = {arm.name: arm for arm in ablation.table.arms}
    found = {name: options_of(ablation, Run(ablation.corpora[0], arms[name], 0)) for name in arms if arms[name].trained}
    changed = {
        name: {key: value for key, value in options.items() if value != found["edges-other"][key] and key != "out"}
        for name, options in found.items()
    }
    assert changed["another-video"] == {"clips.motion-control": "another-video", "clips.motion-threshold": 0.0}
    assert changed["any-time"] == {"clips.motion-control": "any-time"}
    assert changed["gradient"] == {"clips.motion-input": "gradient"}
    assert set(ablation.table.motion_inputs) == {"edges", "gradient"}


def test_each_fold_leaves_out_people_that_it_alone_tests(data: Path) -> None:
    ablation = ablation_of("inductive", data)
    assert ablation.config.seeds == (0, 1, 2, 3, 4)
    assert [corpus.name for corpus in ablation.corpora] == ["fold-0", "fold-1", "fold-2"]
    tested: list[str] = []
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for fold, corpus in enumerate(ablation.corpora):
        seen = listed_videos(corpus)
        unseen = {row["file"]: row for row in rows if row["set"] != "ucf101_6" and row["file"] not in seen}
        assert {row["group"] for row in unseen.values()} == {*ACTORS[fold::3], *SEQUENCES[fold::3]}
        assert {row["file"] for row in rows if row["set"] == "ucf101_6" and row["split"] == "train"} <= seen
        assert not any(row["file"] in seen for row in rows if row["set"] == "ucf101_6" and row["split"] == "test")
        tested += unseen
    assert sorted(tested) == sorted(row["file"] for row in rows if row["set"] != "ucf101_6")
    # The store that all folds are tested on is made once.
    assert len([job for job in ablation.preparation() if job.name == "real/store"]) == 1


def results_of(ablation: Ablation, right: Mapping[str, float]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A result of every test: an arm is right on videos of a fold that it had not seen with this chance, else wrong."""
    random = np.random.default_rng(0)
    for run, test in ablation.tests():
        with (ablation.config.out / "real/labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["set"].replace("_", "-") == test.task]
        seen = listed_videos(run.corpus)
        videos = []
        for row in rows:
            is_right = row["path"] not in seen and random.random() < right[run.arm.name]
            guess = row["label"] if is_right else "z"
            one = {"video": row["path"], "label": row["label"], "predicted": guess, "rank": int(not is_right)}
            videos.append(one | {"fold": row["group"]})
        yield (
            ablation.test_folder(run, test),
            {"videos": videos, "classes": [], "chance": 0.5, "shape_probe": {"top1": 0.5}},
        )


def test_a_pool_has_each_video_once_from_the_nets_that_had_not_seen_it(data: Path) -> None:
    ablation = ablation_of("inductive", data, seeds=(0, 1, 2))
    chances = dict.fromkeys((arm.name for arm in ablation.table.arms), 0.0) | {"edges-other": 1.0}
    for folder, result in results_of(ablation, chances):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
    found = write_report(ablation)["evaluations"]
    assert list(found) == ["primary", "weizmann", "ut-interaction"]
    assert [len(set(found[name]["videos"])) for name in found] == [58, 18, 40]
    assert [len(found[name]["videos"]) for name in found] == [58, 18, 40]
    # Right on every video that was not seen, wrong on the others: only the former are in the pool.
    assert found["primary"]["all"]["arms"]["edges-other"]["by_seed"] == {0: 100.0, 1: 100.0, 2: 100.0}
    assert found["primary"]["all"]["arms"]["random"]["mean"] == 0.0
    text = (ablation.config.out / "inductive.md").read_text()
    assert "58 videos, none seen" in text
    assert "t over seeds" in text
    # A seed that a fold lacks is left out of the pool, not taken for wrong.
    (ablation.test_folder(*ablation.tests()[0]) / "result.json").unlink()
    arm = ablation.tests()[0][0].arm.name
    assert list(write_report(ablation)["evaluations"]["primary"]["all"]["arms"][arm]["by_seed"]) == [1, 2]


def test_power_is_what_draws_of_that_standard_error_find(data: Path) -> None:
    draws = np.random.default_rng(0).normal(8.0, 4.0, 200_000)
    assert power(8.0, 4.0) == pytest.approx(np.mean(draws - 1.959964 * 4.0 > 0), abs=0.005)
    ablation = ablation_of("inductive", data, seeds=(0, 1))
    for folder, result in results_of(ablation, {"random": 0.1, "rgb-only": 0.3, "edges-other": 0.5, "best": 0.4}):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
    written = write_report(ablation)
    lines = list(power_lines(ablation.config.out / "inductive.json", data, QUESTIONS["inductive"]))
    wanted = next(
        row
        for row in written["evaluations"]["weizmann"]["all"]["differences"]
        if (row["arm"], row["against"]) == ("edges-other", "rgb-only")
    )
    error = next(line for line in lines if line.startswith("Weizmann:"))
    assert re.search(r"standard error (\S+)", error)[1] == f"{wanted['standard_error']:.2f}"  # type: ignore[index]
    with pytest.raises(ConfigError, match="puts tests together"):
        list(power_lines(ablation.config.out / "inductive.json", data, TABLES["3a"]))


def test_draws_of_groups_and_of_videos_within_them_have_the_variance_of_both() -> None:
    """One seed, three groups of four videos. Of means m and variances v within: (var(m) + mean(v / 4)) / 3."""
    scores = np.array([[0, 0, 0, 1.0, 1, 1, 0, 1, 1, 1, 1, 1]])
    groups = [name for name in "abc" for _ in range(4)]
    parts = scores.reshape(3, 4)
    expected = (parts.mean(1).var() + (parts.var(1) / 4).mean()) / 3
    drawn = bootstrap_means(scores, groups, draws=60_000, within=True)
    assert drawn.var() == pytest.approx(expected, rel=0.03)
    assert bootstrap_means(scores, groups, draws=60_000).var() == pytest.approx(parts.mean(1).var() / 3, rel=0.03)
    found = estimate({0: scores[0], 1: scores[0]}, groups)
    assert found.over_all is not None
    assert found.over_groups is not None
    assert found.over_all[0] <= found.over_groups[0]
    assert found.standard_error == pytest.approx(100 * expected**0.5, rel=0.03)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_the_interval_over_seeds_is_students(num_seeds: int) -> None:
    random = np.random.default_rng(num_seeds)
    correct = {seed: (random.random(50) < 0.5).astype(float) for seed in range(num_seeds)}
    means = [100 * values.mean() for values in correct.values()]
    expected = stats.t.interval(0.95, num_seeds - 1, np.mean(means), stats.sem(means))
    assert estimate(correct).over_seeds == pytest.approx(expected, rel=1e-3)
    assert estimate({0: correct[0], 1: correct[1]}).over_seeds is None


def test_a_flow_histogram_is_where_things_go() -> None:
    """The left third goes right, the middle stands still, the right third goes up: bins 0, still, and 6 (v is down)."""
    flow = np.zeros((6, 9, 9, 2), np.float32)
    flow[:, :, :3, 0] = 4.0
    flow[:, :, 6:, 1] = -2.0
    cells = flow_histograms(flow).reshape(3, 3, 3, 10)  # time, row, column
    for column, kind, speed in ((0, 0, 4.0), (1, 8, 0.0), (2, 6, 2.0)):
        expected = np.zeros(10)
        expected[kind], expected[9] = 1.0, speed
        np.testing.assert_allclose(cells[:, :, column], np.broadcast_to(expected, (3, 3, 10)), atol=1e-6)
    assert np.isfinite(flow_histograms(flow[:2])).all()


def test_questions_are_of_real_videos(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--table controls on real videos needs --data"):
        Ablation(AblationConfig("controls", tmp_path / "out", sets=("demo",)))
    with pytest.raises(ConfigError, match="leave out --preset k400-mini"):
        Ablation(AblationConfig("controls", tmp_path / "out", "k400-mini", data=data))
    ablation = Ablation(AblationConfig("ceiling", tmp_path / "out", data=data, sets=("demo",)))
    assert [corpus.name for corpus in ablation.corpora] == ["real"]
    commands = {run.arm.name: ablation.evaluation(run, test).command for run, test in ablation.tests()}
    assert "finetune" in commands["supervised"]
    assert "--beside-alone" in commands["histograms"]
    assert any("runs/real/edges-other" in word for word in commands["edges-other-histograms"])
    assert "--beside" in commands["edges-other-histograms"]
    assert "--beside" not in commands["edges-other"]


def test_power_without_videos_is_refused_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--table", "3a", "--sets", "demo", "--out", str(tmp_path / "out"), "--power", str(tmp_path / "3a.json")]
    monkeypatch.setattr(sys, "argv", ["ablate", *words])
    with pytest.raises(ConfigError, match="pass --data FOLDER"):
        ablate.main()
    assert not (tmp_path / "out/runs").exists()
