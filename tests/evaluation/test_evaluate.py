"""Evaluating as users do: real processes, one and two of them, killed and begun again, and refusals in a paragraph."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.launching import REPOSITORY, run_script
from tests.commands.test_pretrain import assert_refused
from tests.evaluation.evaluation_sets import demo_rows, write_list

pytestmark = pytest.mark.slow

CLIPS = ["--views.num-frames", 4, "--views.stride", 4, "--views.crop-size", 32, "--views.spatial", 1]
VIEWS = ["--views.temporal", 2, *CLIPS]
NETWORK = ["--backbone", "random", "--arch", "r18", "--width", 8, "--features.precision", "fp32"]


@pytest.fixture(scope="module")
def labels(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo store's videos, and two that it does not hold."""
    rows = demo_rows(demo_store)
    rows += [{"path": f"bounce/absent{n}.mp4", "label": "bounce", "group": "g1", "split": "test"} for n in range(2)]
    return write_list(tmp_path_factory.mktemp("labels") / "labels.csv", rows)


def arguments(store: Path, labels: Path, out: Path) -> list[object]:
    protocol = ["--protocol", "leave-one-group-out"]
    return [*NETWORK, *VIEWS, "--store", store, "--labels", labels, *protocol, "--out", out]


def outcome(out: Path) -> dict:
    result = json.loads((out / "result.json").read_text())
    return {key: value for key, value in result.items() if key != "options"}


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("features/*/*.safetensors")}


@pytest.fixture(scope="module")
def alone(demo_store: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The result of one process, its table and its log."""
    out = tmp_path_factory.mktemp("alone") / "out"
    done = run_script("evaluate.py", "linear", *arguments(demo_store, labels, out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


def test_what_a_user_gets(alone: tuple[Path, str, str]) -> None:
    out, table, log = alone
    result = outcome(out)
    assert f"top1 {100 * result['top1']:.1f} %" in table
    assert f"of {result['num_test']} videos" in table
    assert f"shape of the frame alone: {100 * result['shape_probe']['top1']:.1f} %" in table
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")
    # The two that the store does not hold count as wrong, and are named.
    assert (result["num_test"], result["num_odd"]) == (34, 2)
    assert {row["video"] for row in result["odd"]} == {"bounce/absent0.mp4", "bounce/absent1.mp4"}
    assert log.count("odd video: bounce/absent") == 2
    assert "2 odd videos, as wrong where tested" in table
    bounce = next(row for row in result["classes"] if row["class"] == "bounce")
    right = [row["rank"] == 0 for row in result["videos"] if row["label"] == "bounce"]
    assert (bounce["videos"], bounce["top1"]) == (6, pytest.approx(sum(right) / 6))
    assert result["top1"] == pytest.approx(sum(row["rank"] == 0 for row in result["videos"]) / 34)
    assert [fold["name"] for fold in result["folds"]] == [f"without g{n}" for n in range(4)]


def test_two_processes_give_what_one_gives(
    demo_store: Path, labels: Path, alone: tuple[Path, str, str], tmp_path: Path
) -> None:
    done = run_script("evaluate.py", "linear", *arguments(demo_store, labels, tmp_path / "out"), processes=2)
    assert done.returncode == 0, done.stderr
    assert "features 16/16 videos of this process" in done.stderr  # each made its half
    assert shards(tmp_path / "out") == shards(alone[0])
    assert outcome(tmp_path / "out") == outcome(alone[0])


def test_killed_and_begun_again(demo_store: Path, labels: Path, alone: tuple[Path, str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [Path(__file__).with_name("planted_evaluation.py"), "linear", *arguments(demo_store, labels, out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(shards(out)) == ["00000.safetensors"]
    assert not (out / "result.json").exists()
    again = run_script("evaluate.py", "linear", *arguments(demo_store, labels, out))
    assert again.returncode == 0, again.stderr
    assert "1 of 2 shards of 16 videos are in" in again.stderr
    assert shards(out) == shards(alone[0])
    assert outcome(out) == outcome(alone[0])


def test_bad_input_gets_one_paragraph(demo_store: Path, labels: Path, tmp_path: Path) -> None:
    refused = run_script(
        "evaluate.py", "knn", *arguments(demo_store, labels, tmp_path / "out"), "--group-column", "actor"
    )
    assert_refused(refused, "needs a column of groups", "--group-column", "group, label, path, split")
    assert not (tmp_path / "out").exists()
