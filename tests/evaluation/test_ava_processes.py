"""modist evaluate ava as its users start it: two processes, a kill, a polite stop."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from modist_fast.evaluation.ava import made_up
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import run_script, script_command, start_and_signal

pytestmark = pytest.mark.slow

NUM_STEPS = 9
_MODELS = ("backbone.safetensors", "linear.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ava")
    made_up.make_ava(out, num_videos=8, seed=0, workers=1)
    return out


def options(made: Path, out: Path, *more: object) -> list[object]:
    """Twelve keyframes in batches of 4, in groups of 2; dropout is on, and drawn for a group, not a process."""
    return [
        *("ava", "--preset", "small", "--backbone", "random", "--arch", "r18", "--width", 4, "--out", out),
        *("--videos", made / "videos", "--train-boxes", made / made_up.TRUTH["train"]),
        *("--test-truth", made / made_up.TRUTH["val"], "--test-boxes", made / made_up.PREDICTED),
        *("--classes", made / made_up.CLASSES, "--excluded", made / made_up.EXCLUDED),
        *("--epochs", 3, "--batch-size", 4, "--group-size", 2, "--crop-size", 48, "--short-side", 56),
        *("--optim.lr", 0.5, "--optim.warmup-epochs", 0.5, "--dropout", 0.3, "--checkpoint.every", 2),
        *("--precision", "fp32", "--num-threads", 1, "--device", "cpu", *more),
    ]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl")]


def scores(run: Path) -> tuple[list[list[str]], list[float]]:
    """Of detections.csv: keyframe, box and action, and the score of each."""
    with (run / "detections.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return [row[:7] for row in rows], [float(row[7]) for row in rows]


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    done = run_script("evaluate.py", *options(made, out))
    assert done.returncode == 0, done.stderr
    assert len(losses(out)) == NUM_STEPS
    return out


def test_two_processes_give_the_scores_of_one(made: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_script("evaluate.py", *options(made, out), processes=2)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-3)
    (boxes, found), (same, wanted) = scores(out), scores(undisturbed)
    assert boxes == same, "the same boxes of the same keyframes in the same order"
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    one, two = (json.loads((path / "result.json").read_text()) for path in (undisturbed, out))
    assert two["mAP_of_random_scores"] == one["mAP_of_random_scores"]
    assert two["training"] == one["training"]
    assert two["num_boxes"] == one["num_boxes"] == len(found) / len(made_up.ACTIONS)


@pytest.mark.long
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_and_resumed_run_repeats_every_bit(kind, made: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = options(made, out, "--resume", "auto")
    command = script_command("evaluate.py", *arguments)
    code = start_and_signal(command, out, 3, lambda process: os.killpg(process.pid, kind))
    assert code == (-kind if kind == signal.SIGKILL else 128 + kind)
    assert len(losses(out)) < NUM_STEPS, "stopped too late to prove anything"
    assert not (out / "result.json").exists()
    resumed = run_script("evaluate.py", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    assert losses(out) == losses(undisturbed)
    for name in (*_MODELS, "detections.csv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
