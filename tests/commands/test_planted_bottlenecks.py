"""The verdict on real runs, with one of their parts made slow: it must name that part, on a machine of any speed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modist_fast.host.core_wait import seconds_without_core
from modist_fast.watch.budget import PHASES
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import HANG, REPOSITORY

pytestmark = pytest.mark.slow

# One thread and one step ahead: slow data is late soon, and as slow on any number of cores.
SMALL = ["--preset", "demo", "--device", "cpu", "--precision", "fp32", "--loader.num-threads", 1]
SMALL += ["--loader.prefetch", 1, "--model.visual-width", 8, "--clips.crop-size", 32, "--batch-size", 4]
SMALL += ["--group-size", 2, "--objective.bank-size", 64, "--max-steps", 8]
PLANTED = Path(__file__).with_name("planted.py")


def budget_of(run: Path, store: Path, fault: str, *more: object, rank: int = -1, processes: int = 1) -> dict[str, Any]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = [sys.executable, *(torchrun if processes > 1 else [])]
    command = [*launcher, PLANTED, fault, rank, *SMALL, "--store", store, "--out", run, *more]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    budget = json.loads((run / "budget.json").read_text())
    assert budget["verdict"] in done.stderr
    return budget


@pytest.mark.fault
@pytest.mark.parametrize("stage", ["read", "plan", "decode"])
def test_slow_data_is_called_by_its_stage(demo_store: Path, tmp_path: Path, stage: str) -> None:
    budget = budget_of(tmp_path / "run", demo_store, stage, "--max-steps", 10)
    assert budget["bottleneck"] == stage
    assert budget["verdict"].startswith(f"{stage}-bound: {100 * budget['phases']['data_wait']['share']:.0f} % of the")


@pytest.mark.long
def test_tiny_batch(demo_store: Path, tmp_path: Path) -> None:
    """Its nets take long to be called, not to compute: by how much depends on the machine, so more of it is planted."""
    tiny = ["--batch-size", 2, "--objective.no-shuffle-bn"]
    budget = budget_of(tmp_path / "run", demo_store, "calls", *tiny)
    assert budget["bottleneck"] == "overhead"
    assert "raise --batch-size" in budget["verdict"]


@pytest.mark.long
def test_heavy_checkpoint(demo_store: Path, tmp_path: Path) -> None:
    budget = budget_of(tmp_path / "run", demo_store, "checkpoint", "--checkpoint.every", 1)
    assert budget["bottleneck"] == "checkpoint"
    assert budget["verdict"].endswith("raise --checkpoint.every")


@pytest.mark.long
def test_slow_log(demo_store: Path, tmp_path: Path) -> None:
    assert budget_of(tmp_path / "run", demo_store, "log")["bottleneck"] == "log"


@pytest.mark.long
def test_slow_gradients(demo_store: Path, tmp_path: Path) -> None:
    budget = budget_of(tmp_path / "run", demo_store, "all_reduce", processes=2)
    assert budget["bottleneck"] == "communication"
    assert budget["straggler"] is None
    share = {name: phase["share"] for name, phase in budget["phases"].items()}
    assert share["all_reduce"] == max(share.values()), "the wait belongs to the gradients, not to backward"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "phase"), [pytest.param("momentum", "momentum", marks=pytest.mark.long), ("decode", "data_wait")]
)
def test_slow_rank_is_named(demo_store: Path, tmp_path: Path, fault: str, phase: str) -> None:
    budget = budget_of(tmp_path / "run", demo_store, fault, rank=1, processes=2)
    assert budget["bottleneck"] == "straggler"
    assert (budget["straggler"]["rank"], budget["straggler"]["phase"]) == (1, phase)
    assert "rank 1 takes" in budget["verdict"]


@pytest.mark.skipif(seconds_without_core() == 0, reason="this kernel does not count the time that threads lack a core")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_busy_machine_is_called_that(demo_store: Path, tmp_path: Path, processes: int) -> None:
    """Three others spin on the core of the last rank: no part of the step is to blame, and no rank a straggler."""
    budget = budget_of(tmp_path / "run", demo_store, "busy", rank=processes - 1, processes=processes)
    assert (budget["bottleneck"], budget["straggler"]) == ("starved", None)
    assert max(budget["core_wait"]) > 0.25
    whose = "the process of rank " if processes == 2 else "this process "
    assert budget["verdict"].startswith(f"starved: {whose}")
    assert f"threads want to run on {os.cpu_count()} cores" in budget["verdict"]


def test_nets_that_compute(demo_store: Path, tmp_path: Path) -> None:
    """The nets decide, every phase is there, and the phases make up the step on each rank."""
    run = tmp_path / "run"
    budget = budget_of(run, demo_store, "arithmetic")
    assert budget["bottleneck"] == "compute"
    lines = read_metrics(run / "budget.jsonl")
    assert [line["num_steps"] for line in lines] == [4, 4]
    assert lines[-1]["step"] == 8
    for line in lines:
        assert set(line["phases"]) == {*PHASES, "other"}
        for rank, seconds in enumerate(line["seconds"]):
            assert sum(values[rank] for values in line["phases"].values()) == pytest.approx(seconds)
    steps = read_metrics(run / "metrics.jsonl")
    assert sum(row["seconds"] for row in steps[4:]) == pytest.approx(lines[-1]["seconds"][0])
    assert lines[-1]["phases"]["all_reduce"][0] == 0  # there is one process
    for name in ("momentum", "keys", "gather", "queries", "loss", "backward", "checks", "optimizer", "enqueue"):
        assert sum(row["spans"][name] for row in steps[4:]) == pytest.approx(lines[-1]["phases"][name][0])
        assert lines[-1]["phases"][name][0] > 0
