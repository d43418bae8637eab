"""The ablation command: what its arms change, how it goes on, what it does with a failed arm, and its statistics."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from clip_store import make_store

from modist_fast.ablation.config import AblationConfig
from modist_fast.ablation.experiment import Ablation, Run
from modist_fast.ablation.jobs import Job, run_jobs
from modist_fast.ablation.questions import TABLES, TableName
from modist_fast.ablation.report import write_report
from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.statistics import bootstrap_means, estimate, paired_difference
from modist_fast.presets import find_preset
from modist_fast.run.checkpoint import plain_config
from modist_fast.run.options import spelled

pytestmark = pytest.mark.slow

# What each arm changes in the paper's recipe (Table 3, and the options of spec and objective). Where it does not stand
# the preset's own value holds.
PAPER = {
    "3a": {
        "rgb-only": {"objective.motion": False},
        "rgb-only-time": {"objective.motion": False},
        "edges-own": {"objective.cross-negatives": "own"},
        "edges-other": {"objective.cross-negatives": "other"},
    },
    "3b": {
        "rgb-only": {"objective.motion": False},
        "difference": {"clips.motion-input": "difference"},
        "magnitude": {"clips.motion-input": "magnitude"},
        "edges": {"clips.motion-input": "edges"},
    },
    "3c": {
        "edges": {},
        "no-jitter": {"clips.synchronized": True},
        "no-threshold": {"clips.motion-threshold": 0.0},
        "no-motion-loss": {"objective.motion-loss": False},
    },
    "3d": {"sixth": {"length": 1 / 6}, "third": {"length": 1 / 3}, "two-thirds": {"length": 2 / 3}, "all": {}},
}

# What the made-up videos need beyond the preset, for all arms alike.
DEMO = {
    "epochs": 30,
    "optim.warmup-epochs": 1.5,
    "optim.lr": 0.3,
    "clips.visual.stride": 8,
    "clips.motion.stride": 4,
    "clips.augmentation.crop-area": [0.8, 1.0],
    "clips.augmentation.crop-aspect": [0.9, 1.1],
    "clips.augmentation.color-strength": 0.0,
    "clips.augmentation.gray": 0.0,
    "clips.augmentation.blur": 0.0,
}


@pytest.mark.parametrize("table", ["3a", "3b", "3c", "3d"])
@pytest.mark.parametrize("preset", ["small", "k400-mini", "modist-r50"])
def test_arms_change_what_the_papers_table_names_and_nothing_else(
    table: TableName, preset: str, tmp_path: Path
) -> None:
    more = {"sets": ("demo",)} if preset == "small" else {"store": tmp_path, "evaluate": ("ucf: --store UCF",)}
    ablation = Ablation(AblationConfig(table=table, out=tmp_path, preset=preset, **more))  # pyright: ignore[reportArgumentType]
    base = _flat(find_preset(preset)(tmp_path, tmp_path))
    assert {arm.name for arm in TABLES[table].arms} == {"random", *PAPER[table]}
    for run in ablation.runs():
        if not run.arm.trained:
            continue
        changed = PAPER[table][run.arm.name]
        found = _flat(_parse(ablation.training(run), preset))
        motion_input = {} if changed.get("objective.motion") is False else {"clips.motion-input": "edges"}
        wanted = base | (DEMO if run.corpus.name == "demo" else {}) | motion_input | changed
        if length := wanted.pop("length", None):
            wanted["epochs"] = round(length * wanted["epochs"])
            wanted["optim.warmup-epochs"] = pytest.approx(length * wanted["optim.warmup-epochs"], rel=1e-4)
        wanted |= {"store": str(run.corpus.store), "out": str(ablation.folder(run))}
        wanted |= {"seed": run.seed, "resume": "auto"}
        assert found == wanted, run.name


def _flat(config: TrainConfig) -> dict:
    return spelled(plain_config(config))


def _parse(job: Job, preset: str) -> TrainConfig:
    words = list(job.command[job.command.index("--preset") :])
    if words[-1] == "EPOCHS":  # of an arm of equal time, as many as the time allows
        del words[-2:]
    return tyro.cli(TrainConfig, default=find_preset(preset)(None, tyro.MISSING), args=words)


def test_an_arm_of_equal_time_gets_the_epochs_that_its_steps_seconds_allow(tmp_path: Path) -> None:
    ablation = Ablation(AblationConfig(table="3a", out=tmp_path, sets=("demo",), seeds=(0, 1)))
    [demo] = ablation.corpora
    arms = {arm.name: arm for arm in ablation.table.arms}
    job = ablation.training(Run(demo, arms["rgb-only-time"], 1))
    assert job.command[-2:] == ("--epochs", "EPOCHS")
    # A median of 0.2 and 0.6 seconds for edges, of 0.1 and 0.3 for RGB-only: twice as long. One slow step is no matter.
    for name, seconds in (("edges-other", ([0.2, 0.2, 9.0], [0.6, 0.6, 0.6])), ("rgb-only", ([0.1] * 3, [0.3] * 3))):
        for seed in (0, 1):
            _finished_run(ablation.folder(Run(demo, arms[name], seed)), seconds[seed])
    job = ablation.training(Run(demo, arms["rgb-only-time"], 1))
    assert job.command[-2:] == ("--epochs", "200")
    assert {f"demo/{name}/seed-{seed}" for name in ("rgb-only", "edges-other") for seed in (0, 1)} <= set(job.needs)


def _finished_run(folder: Path, seconds: list[float]) -> None:
    folder.mkdir(parents=True)
    (folder / "backbone.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"epochs": 100}))
    (folder / "environment.json").write_text(json.dumps({"gpus": []}))
    steps = enumerate(seconds, 1)
    rows = [json.dumps({"step": step, "seconds": 5 * value, "cpu_seconds": value}) for step, value in steps]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")


def test_gamma_by_share_is_given_to_the_arms_that_have_one(tmp_path: Path) -> None:
    """Windows of 16 frames at stride 2 on a grid of 2; the scores of each are the same, 0.1 to 4.0 of full scale 10."""
    more: dict[str, Any] = {"arms": ("edges", "no-threshold"), "reject_share": 0.25}
    ablation = Ablation(
        AblationConfig("3c", tmp_path, "k400-mini", store=tmp_path / "store", evaluate=("ucf: --store UCF",), **more)
    )
    edges, unlimited = ablation.runs()[:2]
    assert "THRESHOLD" in ablation.training(edges).command  # of a store that is not there yet
    scores = {video: np.full(80, 0.1 * (video + 1), np.float32) for video in range(40)}
    make_store(tmp_path / "store", [80] * 40, height=16, width=16, scores=scores)
    assert _parse(ablation.training(edges), "k400-mini").clips.motion_threshold == pytest.approx(0.1, rel=1e-3)
    assert _parse(ablation.training(unlimited), "k400-mini").clips.motion_threshold == 0
    rgb_only = Ablation(
        AblationConfig(
            "3a", tmp_path, "k400-mini", store=tmp_path / "store", evaluate=("ucf: --store UCF",), reject_share=0.25
        )
    )
    commands = {run.arm.name: rgb_only.training(run).command for run in rgb_only.runs()}
    assert {name for name, words in commands.items() if "--clips.motion-threshold" in words} >= {"edges-other"}
    assert "--clips.motion-threshold" not in commands["rgb-only"]


def test_interval_is_that_of_all_draws_of_seeds_and_videos() -> None:
    """Two seeds, three videos: 4 draws of seeds times 27 of videos can be written down."""
    scores = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    every = [
        np.mean([scores[seed, video] for seed in seeds for video in videos])
        for seeds in itertools.product(range(2), repeat=2)
        for videos in itertools.product(range(3), repeat=3)
    ]
    values, counts = np.unique(np.round(every, 9), return_counts=True)
    drawn, drawn_counts = np.unique(np.round(bootstrap_means(scores, draws=50_000, seed=0), 9), return_counts=True)
    assert values.tolist() == drawn.tolist()
    # Four standard errors of a share.
    shares = counts / len(every)
    assert np.all(np.abs(drawn_counts / 50_000 - shares) < 4 * np.sqrt(shares * (1 - shares) / 50_000))


def test_interval_over_groups_draws_whole_groups() -> None:
    """One seed, a group of one video and one of two: four draws of groups, written out."""
    scores = np.array([[1.0, 0.0, 0.0]])
    drawn = bootstrap_means(scores, ["a", "b", "b"], draws=20_000, seed=0)
    values, counts = np.unique(np.round(drawn, 9), return_counts=True)
    assert values.tolist() == [0.0, round(1 / 3, 9), 1.0]  # b b; a b and b a; a a
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_difference_is_paired_by_seed_and_video() -> None:
    arm = {0: np.array([1, 1, 0, 1]), 1: np.array([1, 0, 1, 1]), 7: np.zeros(4)}
    against = {1: np.array([0, 0, 1, 1]), 0: np.array([1, 0, 0, 0])}
    found = paired_difference(arm, against)
    assert found.by_seed == {0: 50.0, 1: 25.0}  # (0 + 1 + 0 + 1) / 4, (1 + 0 + 0 + 0) / 4
    assert found.mean == 37.5
    assert found.low < found.mean < found.high
    # The same accuracies, but on other videos: no surer than the pairs are.
    always = paired_difference({0: np.ones(4), 1: np.ones(4)}, {0: np.zeros(4), 1: np.zeros(4)})
    assert (always.low, always.high) == (100.0, 100.0)
    assert estimate({0: np.array([1, 0])}).mean == 50.0
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({0: np.ones(2)}, {1: np.ones(2)})


def _job(folder: Path, name: str, script: str, *needs: str) -> Job:
    return Job(name, (sys.executable, "-c", script), folder / name, folder / name / "result", needs)


def test_a_job_runs_once_and_a_failed_one_stops_only_those_that_need_it(tmp_path: Path, caplog) -> None:
    def writes(name: str) -> str:
        path = str(tmp_path / name / "result")
        return f"open({path!r}, 'a').write('x'); print('ran {name}')"

    jobs = [
        _job(tmp_path, "good", writes("good")),
        _job(tmp_path, "bad", "print('out of memory'); raise SystemExit(3)"),
        _job(tmp_path, "silent", "pass"),
    ]
    failed: dict[str, str] = {}
    run_jobs(jobs, 2, failed)
    assert failed.keys() == {"bad", "silent"}
    assert failed["bad"] == "exit code 3"
    assert "result" in failed["silent"]
    assert "out of memory" in caplog.text
    run_jobs(
        [_job(tmp_path, "after", writes("after"), "good"), _job(tmp_path, "never", writes("never"), "bad")], 2, failed
    )
    assert failed["never"] == "not run: it needs bad"
    assert (tmp_path / "after" / "result").exists()
    assert not (tmp_path / "never").exists()
    # A second call does what is missing, and nothing twice.
    jobs[1] = _job(tmp_path, "bad", "print('out of memory'); raise SystemExit(3)")
    again: dict[str, str] = {}
    run_jobs(jobs, 1, again)
    assert (tmp_path / "good" / "result").read_text() == "x"
    assert again.keys() == {"bad", "silent"}
    with pytest.raises(ConfigError, match="was begun as"):
        run_jobs([_job(tmp_path, "good", "pass")], 1, {})


def test_bad_options_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seeds": (1, 1)}, "each once"),
        ({"demo_videos": 100}, "multiple of 40"),
        ({}, "on real videos needs --data"),
        ({"arms": ("edges",), "sets": ("demo",)}, "those of the table: random, rgb-only"),
        ({"arms": ("rgb-only-time", "rgb-only"), "sets": ("demo",)}, "measured by edges-other"),
        ({"arms": ("random",), "sets": ("demo",)}, "one that is trained"),
        ({"data": tmp_path}, "manifest.csv"),
        ({"store": tmp_path}, "k400-mini"),
        ({"preset": "k400-mini"}, "needs --store"),
        ({"preset": "k400-mini", "store": tmp_path, "evaluate": ("ucf",)}, "NAME: OPTIONS"),
    ]
    for options, words in cases:
        with pytest.raises(ConfigError, match=words):
            Ablation(AblationConfig(table="3a", out=tmp_path / "out", **options))


def test_report_compares_the_arms_that_were_tested(tmp_path: Path) -> None:
    ablation = Ablation(AblationConfig(table="3a", out=tmp_path, sets=("demo",), seeds=(0, 1)))
    [demo] = ablation.corpora
    # Four videos; an arm's ranks of the true class, 0 where the answer is right.
    ranks = {
        "rgb-only": {0: [0, 1, 1, 2], 1: [1, 1, 0, 1]},
        "edges-other": {0: [0, 0, 1, 0], 1: [1, 0, 0, 0]},
        "edges-own": {0: [2, 1, 1, 1]},
    }
    for arm in ablation.table.arms:
        for seed, values in ranks.get(arm.name, {}).items():
            folder = ablation.test_folder(Run(demo, arm, seed), demo.evaluations[0])
            folder.mkdir(parents=True)
            # The order of the videos in a result does not matter: pairs go by name.
            (folder / "result.json").write_text(json.dumps(_result(values, reverse=seed == 1)))
    ablation.failed["demo/edges-own/seed-1"] = "exit code 1"
    found = write_report(ablation)["evaluations"]["demo"]
    assert {arm: row["by_seed"] for arm, row in found["all"]["arms"].items()} == {
        "rgb-only": {0: 25.0, 1: 25.0},
        "edges-own": {0: 0.0},
        "edges-other": {0: 75.0, 1: 75.0},
    }
    means = {(row["arm"], row["against"]): row["mean"] for row in found["all"]["differences"]}
    assert means == {
        ("edges-other", "rgb-only"): 50.0,
        ("edges-own", "rgb-only"): -25.0,  # the one seed that both have
        ("edges-other", "edges-own"): 75.0,
    }
    assert found["predicted"]["edges-other"] == {0: [0, 1, 1, 1], 1: [1, 1, 0, 1]}
    assert found["labels"] == [0, 1, 0, 1]
    table = (tmp_path / "3a.md").read_text()
    assert "| RGB-only (Eq. 1) | 25.0, 25.0 | 25.0 |" in table
    assert "demo/edges-own/seed-1: exit code 1" in table
    assert (tmp_path / "3a.png").stat().st_size > 0


def _result(ranks: list[int], reverse: bool) -> dict:
    labels = ["circle", "leap", "circle", "leap"]
    other = {"circle": "leap", "leap": "circle"}
    videos = [
        {
            "video": f"{place}.mp4",
            "label": label,
            "predicted": label if rank == 0 else other[label],
            "rank": rank,
            "fold": "one",
        }
        for place, (label, rank) in enumerate(zip(labels, ranks, strict=True))
    ]
    return {
        "videos": videos[::-1] if reverse else videos,
        "classes": [{"class": "circle"}, {"class": "leap"}],
        "chance": 0.5,
        "shape_probe": {"top1": 0.5},
    }
