"""Two nodes, each a torchrun agent of its own: one is killed and comes back, and the run is the undisturbed one."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modist_fast.watch.ledger import read_ledger
from modist_fast.watch.run_log import read_metrics
from tests.commands.held import held_file
from tests.commands.launching import REPOSITORY, kill_family, newest, run_script, run_words
from tests.commands.nodes import Nodes, free_port

pytestmark = [pytest.mark.slow, pytest.mark.fault]

SMALL = ["--preset", "demo", "--precision", "fp32", "--model.visual-width", 8, "--clips.crop-size", 32]
SMALL += ["--batch-size", 16, "--group-size", 4, "--objective.bank-size", 64]
SMALL += ["--optim.lr", 0.004, "--optim.warmup-epochs", 0, "--max-steps", 14, "--checkpoint.every", 2]


@pytest.fixture(autouse=True)
def _nodes_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


def held(store: Path, run: Path, steps: str, *more: object) -> list[object]:
    """The words of a run that holds still after these steps."""
    script = [REPOSITORY / "tests/commands/held.py", steps, run, REPOSITORY / "launch/pretrain.py"]
    return [*script, *SMALL, "--store", store, "--out", run, "--resume", "auto", *more]


@pytest.fixture(scope="module")
def undisturbed(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes of one node."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run_script("pretrain.py", *SMALL, "--store", demo_store, "--out", run, processes=2)
    assert done.returncode == 0, done.stderr
    return run


def losses(run: Path) -> list[float]:
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 15))
    return [row["loss"] for row in rows]


def drawn(run: Path) -> dict[int, str]:
    """Digests of whose clips each step drew, and of how their keys were dealt."""
    return {step: line["samples"] for step, line in read_ledger(run).steps.items()}


def state(run: Path) -> dict[str, Any]:
    return torch.load(newest(run))["model"]


def assert_same(run: Path, undisturbed: Path) -> None:
    assert losses(run) == losses(undisturbed)
    assert drawn(run) == drawn(undisturbed)
    assert (run / "backbone.safetensors").read_bytes() == (undisturbed / "backbone.safetensors").read_bytes()
    ours, theirs = state(run), state(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.long
def test_a_node_that_is_killed_and_comes_back_repeats_every_bit(
    demo_store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The other waits for it. Its second attempt is another torchrun: a machine that was started anew."""
    run = tmp_path / "run"
    with Nodes(tmp_path, held(demo_store, run, "5")) as nodes:
        for node in range(2):
            nodes.start(node)
        nodes.wait_until_held(run)
        kill_family(nodes.agents[1])
        held_file(run).unlink()
        nodes.wait_for(0, "rank 0 lost another rank")
        assert nodes.agents[0].poll() is None
        nodes.start(1)
        assert nodes.codes() == [0, 0], nodes.all_said()
        assert "resumed after step 4" in nodes.said(0)
        assert "GLOO_SOCKET_IFNAME" in nodes.said(0)
    assert_same(run, undisturbed)


@pytest.mark.long
def test_the_other_node_goes_on_alone_until_it_comes_back(demo_store: Path, undisturbed: Path, tmp_path: Path) -> None:
    """--nnodes 1:2: worlds of two, one and two processes draw the same, and compute the same to rounding."""
    run = tmp_path / "run"
    with Nodes(tmp_path, held(demo_store, run, "5,8"), nnodes="1:2") as nodes:
        for node in range(2):
            nodes.start(node)
        nodes.wait_until_held(run)
        assert "2 process(es)" in nodes.said(0)
        kill_family(nodes.agents[1])
        held_file(run).unlink()
        nodes.wait_until_held(run)  # at step 8, which it took alone
        nodes.start(1)
        assert nodes.codes() == [0, 0], nodes.all_said()
    begun = read_ledger(run).begun
    assert [attempt.processes for _, attempt in begun] == [2, 1, 2]
    assert begun[1][0] == 4
    assert 8 <= begun[2][0] < 14, "nothing was left for two"
    assert drawn(run) == drawn(undisturbed)
    assert losses(run)[:4] == losses(undisturbed)[:4]
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-3)
    ours, theirs = state(run), state(undisturbed)
    assert torch.equal(ours["bank.video_ids"], theirs["bank.video_ids"])
    for name in ours:
        if not name.endswith("num_batches_tracked"):  # counts the groups of a process
            torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=2e-2, atol=2e-3)


@pytest.mark.long
def test_all_end_with_the_node_that_holds_the_rendezvous(demo_store: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Also where it is not the one of rank 0. All started again, the run goes on."""
    run = tmp_path / "run"
    with Nodes(tmp_path, held(demo_store, run, "5"), host=1) as nodes:
        for node in range(2):
            nodes.start(node)
        nodes.wait_until_held(run)
        kill_family(nodes.agents[1])
        held_file(run).unlink(missing_ok=True)  # the other may have been told to end by now
        assert nodes.agents[0].wait() != 0
        assert "RendezvousConnectionError" in nodes.said(0)
        for node in range(2):
            nodes.start(node)
        assert nodes.codes() == [0, 0], nodes.all_said()
        assert "resumed after step" in nodes.said(0)
    assert_same(run, undisturbed)


@pytest.mark.long
def test_nodes_of_other_programs_and_options_are_named(demo_store: Path, tmp_path: Path, monkeypatch) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    for package in ("modist_fast", "kernels/modist_kernels", "pipelines/modist_pipelines", "launch"):
        shutil.copytree(REPOSITORY / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "modist_fast/objective.py").open("a") as file:
        file.write("# of another day\n")
    words = ["-m", "modist_fast", "pretrain", *SMALL, "--store", demo_store, "--out", run]
    with Nodes(tmp_path, words) as nodes:
        nodes.start(0)
        monkeypatch.setattr(sys, "path", [str(other / name) for name in (".", "kernels", "pipelines")] + sys.path)
        nodes._words += ["--seed", "7"]
        nodes.start(1, program=other)
        nodes.wait_for(0, "error: the processes differ, and would train apart: program: ")
        said = nodes.said(0)
        for name in ("program: ", "--seed: 0 on rank 0 (node 0", "7 on rank 1 (node 1", "--resume auto goes on"):
            assert name in said, said
        assert "torch: " not in said
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ("join_timeout=2", ["too few nodes came in time", "--nnodes 2", "join_timeout=SECONDS"]),
        pytest.param(
            "is_host=false,read_timeout=2",
            ["cannot be reached, or is gone", "--rdzv-endpoint 127.0.0.1:", "start all nodes again"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_nodes_that_do_not_meet_get_one_paragraph(conf: str, words: list[str], tmp_path: Path) -> None:
    options = ["--nproc-per-node", "1", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-conf", conf]
    options += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "x"]
    done = run_words([sys.executable, "-m", "modist_fast", *options, "pretrain", "--out", str(tmp_path / "run")])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line]) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.long
def test_processes_that_find_no_network_say_which_there_are(demo_store: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "modist_fast", "--nproc-per-node", "2", "pretrain", *map(str, SMALL)]
    words += ["--store", str(demo_store), "--out", str(tmp_path / "run")]
    done = run_words(words, GLOO_SOCKET_IFNAME="none77")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in ("did not meet the other processes", "Set GLOO_SOCKET_IFNAME", "this one has lo", os.linesep):
        assert word in done.stderr
