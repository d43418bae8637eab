"""Gates: rehearsed for real on made-up videos, judged on planted figures, refused where data is missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modist_fast.commands.reproduce import cost, judge
from modist_fast.errors import ConfigError
from modist_fast.reproduce.gates import Gate, GateConfig, Wanted, gate_of
from tests.commands.launching import run_command


@pytest.mark.slow
@pytest.mark.long
def test_a_rehearsal_runs_all_of_it_once(tmp_path: Path) -> None:
    words = ("--gate", "authors-weights", "--out", tmp_path / "out", "--rehearse")
    done = run_command("reproduce", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["name"] for row in result["figures"]] == ["ucf101 top-1", "hmdb51 top-1"]
    for row, name in zip(result["figures"], ("ucf101", "hmdb51"), strict=True):
        found = json.loads((tmp_path / "out" / name / "result.json").read_text())
        assert row["value"] == 100 * found["top1"]
        assert found["num_test"] == 8
        assert row["verdict"] == "not judged"
    again = run_command("reproduce", *words)
    assert again.returncode == 0
    assert again.stderr.count("done before") == 3


def test_near_enough_passes_and_too_far_does_not(tmp_path: Path) -> None:
    config = GateConfig(gate="k400-mini", out=tmp_path)
    for value, verdict in ((78.1, "passed"), (76.1, "passed"), (75.9, "FAILED"), (81.0, "passed"), (0.0, "FAILED")):
        gate = Gate([], [Wanted("ucf101 top-1", lambda value=value: value, 78.1, 2.0)], 1.0, 1.0, "")
        assert judge(gate, config) is (verdict == "passed")
        result = json.loads((tmp_path / "result.json").read_text())
        assert (result["passed"], result["figures"][0]["verdict"]) == (verdict == "passed", verdict)
    assert judge(Gate([], [], 1.0, 1.0, "", lambda: ["scaling-1: failed"]), config) is False


def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gate k400-mini needs --ucf101: a folder with videos/"):
        gate_of(GateConfig(gate="k400-mini", out=tmp_path))
    there = GateConfig(gate="k400-mini", out=tmp_path, ucf101=tmp_path, hmdb51=tmp_path)
    with pytest.raises(ConfigError, match=r"--weights .*maclr\.pyth does not exist"):
        gate_of(replace(there, gate="authors-weights", weights=tmp_path / "maclr.pyth"))
    gate = gate_of(replace(there, store=tmp_path))
    # 6 million steps' samples, and two linear layers of 200 epochs, counted again.
    training = 60_000 * 100 * (1453 / 8) * 1e9 / 117e12
    clips = 200 * (9537 + 3570) + 30 * (256 / 224) ** 2 * (3783 + 1530)
    assert gate.gpu_hours == pytest.approx((training + clips * (1453 / 32) * 1e9 / 117e12) / 3600)
    said = cost(gate, GateConfig(gate="k400-mini", out=tmp_path, processes=2))
    assert said.startswith(f"k400-mini: {gate.gpu_hours / 2:.1f} h on 2 GPU(s), 106 GB. A model, no measurement")
    assert [word for word in gate.jobs[0].command if word in ("--preset", "k400-mini")] == ["--preset", "k400-mini"]
