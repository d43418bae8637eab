"""Classes of videos that nobody labelled, by what an evaluation left: the same answers as it gave itself."""

import csv
import json
import sys
from pathlib import Path

import pytest

from modist_fast.commands import predict
from modist_fast.errors import ConfigError
from tests.commands.launching import run_command, run_script
from tests.commands.test_pretrain import assert_refused
from tests.evaluation.evaluation_sets import demo_rows, write_list

pytestmark = pytest.mark.slow
CLIPS = ["--views.num-frames", 4, "--views.stride", 4, "--views.crop-size", 32, "--views.spatial", 1]


@pytest.fixture(scope="module")
def labels(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(tmp_path_factory.mktemp("labels") / "labels.csv", demo_rows(demo_store))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as PySlowFast keeps them, so that a converted net goes all the way."""
    import torch

    from modist_fast.models import build_visual
    from modist_fast.weights.names import PYSLOWFAST

    path = tmp_path_factory.mktemp("net") / "slow.pyth"
    torch.manual_seed(0)
    net = build_visual("r18", 8)
    net.scale_residuals(1.0)
    torch.save({"model_state": PYSLOWFAST.theirs(net.state_dict())}, path)
    return path


def predictions(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def assert_same_answers(out: Path, found: dict[str, dict[str, str]]) -> None:
    for row in json.loads((out / "result.json").read_text())["videos"]:
        answer = found[row["video"]]  # of all eight classes
        assert answer["class1"] == row["predicted"]
        chance = {answer[f"class{rank}"]: float(answer[f"probability{rank}"]) for rank in range(1, 9)}
        assert chance[row["label"]] == pytest.approx(row["probability"], abs=2e-3), row["video"]


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(["--recipe", "lbfgs"], marks=pytest.mark.long),
        ["--recipe", "lbfgs", "--lbfgs.normalize", "l2"],
    ],
)
def test_a_linear_classifier(demo_store: Path, labels: Path, backbone: Path, tmp_path: Path, recipe: list[str]) -> None:
    out, videos = tmp_path / "out", ["--features.precision", "fp32"]
    arguments = ["--backbone", backbone, "--store", demo_store, "--labels", labels, "--out", out]
    done = run_script("evaluate.py", "linear", *arguments, *CLIPS, "--views.temporal", 2, *videos, *recipe)
    assert done.returncode == 0, done.stderr
    told = run_command("predict", demo_store, "--classifier", out, "--out", tmp_path / "f.csv", *videos, "--top", 9)
    assert told.returncode == 0, told.stderr
    assert_same_answers(out, predictions(tmp_path / "f.csv"))
    backbone.rename(backbone.with_name("moved.pth"))
    try:
        words = ("--classifier", out, "--out", tmp_path / "g.csv")
        assert_refused(run_command("predict", demo_store, *words), "does not exist")
        moved = ("--backbone", backbone.with_name("moved.pth"))
        again = run_command("predict", demo_store, *words, *moved, "--top", 1, *videos)
        assert again.returncode == 0, again.stderr
        columns = ["video", "start", "end", "class1", "probability1"]
        assert all(list(row) == columns for row in predictions(tmp_path / "g.csv").values())
    finally:
        backbone.with_name("moved.pth").rename(backbone)


@pytest.mark.long
def test_a_finetuned_classifier_on_files(demo_store: Path, labels: Path, backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--backbone", backbone, "--store", demo_store, "--labels", labels, "--out", out, "--device", "cpu"]
    short = ["--epochs", 1, "--batch-size", 8, "--group-size", 8, "--optim.warmup-epochs", 0, "--precision", "fp32"]
    done = run_script("evaluate.py", "finetune", *arguments, *CLIPS, "--views.temporal", 1, *short)
    assert done.returncode == 0, done.stderr
    fp32 = ["--features.precision", "fp32"]
    told = run_command("predict", demo_store, "--classifier", out, "--out", tmp_path / "f.csv", "--top", 9, *fp32)
    assert told.returncode == 0, told.stderr
    assert_same_answers(out, predictions(tmp_path / "f.csv"))
    videos = demo_store.parent / "videos"
    files = sorted(videos.rglob("*.mp4"))[:2]
    told = run_command("predict", *files, "--classifier", out, "--out", tmp_path / "h.csv", "--every", 0.5, *fp32)
    assert told.returncode == 0, told.stderr
    with (tmp_path / "h.csv").open(newline="") as file:
        starts = [(row["video"], float(row["start"])) for row in csv.DictReader(file)]
    assert len(starts) > len({name for name, _ in starts}) == 2


@pytest.mark.parametrize(
    ("out", "top", "said"),
    [
        ("f.csv", "5", r"no linear\.safetensors there"),
        ("f.txt", "5", r"ends in \.csv"),
        ("f.csv", "0", "--top 0: it must be at least 1"),
    ],
)
def test_what_cannot_be_asked(
    demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, top: str, said: str
) -> None:
    words = [demo_store, "--classifier", tmp_path, "--out", tmp_path / out, "--top", top]
    monkeypatch.setattr(sys, "argv", ["modist predict", *map(str, words)])
    with pytest.raises(ConfigError, match=said):
        predict.main()
