"""A NaN or an infinity on one of two ranks, in real processes: the run ends, or both leave the step out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modist_fast.run.whole_state import digest_of
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import REPOSITORY, newest, run_words

pytestmark = [pytest.mark.slow, pytest.mark.fault]
SMALL = "--precision fp32 --device cpu --batch-size 8 --group-size 4 --model.visual-width 8 --clips.crop-size 32"
SMALL += " --objective.bank-size 16 --checkpoint.every 2 --preset demo"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def pretrain(store: Path, run: Path, fault: str, *options: object) -> subprocess.CompletedProcess[str]:
    """Two processes, the second with a fault planted."""
    planted = [str(REPOSITORY / "tests" / "commands" / "planted.py"), fault, "1"]
    words = [sys.executable, *TORCHRUN, *planted, *SMALL.split(), "--store", store, "--out", run, *options]
    return run_words([str(word) for word in words])


def test_both_ranks_leave_a_step_out_and_a_resumed_run_is_exact(demo_store: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--on-bad-step", "skip", "--max-bad-steps", 1, "--resume", "auto")
    done = pretrain(demo_store, whole, "bad-clip", *options, "--max-steps", 4)
    assert done.returncode == 0, done.stderr
    assert "at step 2 on rank 1: " in done.stderr
    assert "The step was left out" in done.stderr
    rows = read_metrics(whole / "metrics.jsonl")
    assert [row["step_skipped"] for row in rows] == [0, 1, 0, 0]
    assert '"loss": null' in (whole / "metrics.jsonl").read_text()

    for last in (2, 4):  # the first part ends with the step left out, and its checkpoint
        part = pretrain(demo_store, parts, "bad-clip", *options, "--max-steps", last)
        assert part.returncode == 0, part.stderr
    assert [row["loss"] for row in read_metrics(parts / "metrics.jsonl")[2:]] == [row["loss"] for row in rows[2:]]
    states = [torch.load(newest(run), weights_only=True) for run in (whole, parts)]
    assert [state["left_out"] for state in states] == [(1, False)] * 2
    for part in ("model", "optimizer"):
        assert digest_of(states[0][part]) == digest_of(states[1][part])


@pytest.mark.long
def test_an_infinite_gradient_at_the_last_step_ends_the_run(demo_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(demo_store, run, "bad-gradient", "--max-steps", 4)
    assert done.returncode != 0
    for words in ("at step 4", "on rank 1", "norm inf", "step-00000002.pt"):
        assert words in done.stderr.replace("\n", " ")
    assert newest(run).name == "step-00000002.pt"
    assert not (run / "backbone.safetensors").exists()
