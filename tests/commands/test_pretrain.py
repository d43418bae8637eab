"""Pre-training as users run it: real processes, kills, resumes, and other numbers of processes."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from modist_fast import load_backbone
from modist_fast.watch.budget import PHASES
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import HANG, REPOSITORY, kill_family, newest, run_script, script_command, start_and_signal

pytestmark = pytest.mark.slow

# Small nets: the trainer is under test, not what it learns.
SMALL = ["--preset", "demo", "--precision", "fp32", "--model.visual-width", 8, "--clips.crop-size", 32]
BATCH = ["--batch-size", 16, "--group-size", 4, "--objective.bank-size", 64]
# Slow learning, so that two orders of summation stay as near to each other as they begin.
RATE = ["--optim.lr", 0.004, "--optim.warmup-epochs", 0]
NUM_STEPS = 10


def losses(run: Path) -> list[float]:
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def options(store: Path, run: Path, *more: object) -> list[object]:
    return [*SMALL, *BATCH, *RATE, "--store", store, "--out", run, "--max-steps", NUM_STEPS, *more]


@pytest.fixture(scope="module")
def two_processes(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two processes."""
    run = tmp_path_factory.mktemp("two") / "run"
    done = run_script("pretrain.py", *options(demo_store, run), processes=2)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.fault
def test_killed_and_resumed_run_repeats_every_bit(demo_store: Path, two_processes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = options(demo_store, run, "--checkpoint.every", 2, "--resume", "auto")
    command = script_command("pretrain.py", *arguments, processes=2)
    start_and_signal(command, run, 5, kill_family)
    assert len(losses(run)) < NUM_STEPS, "killed too late to prove anything"
    resumed = run_script("pretrain.py", *arguments, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step 4" in resumed.stderr  # the second epoch's last of two steps
    assert losses(run) == losses(two_processes)
    left = sorted(path.name for path in run.rglob("*") if path.name.startswith("."))
    assert left == [".lock"]
    backbone = (run / "backbone.safetensors").read_bytes()
    again = run_script("pretrain.py", *arguments)  # after the last step there is nothing to do
    assert again.returncode == 0, again.stderr
    assert losses(run) == losses(two_processes)
    assert (run / "backbone.safetensors").read_bytes() == backbone


@pytest.mark.fault
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_saves_and_ends_with_its_code(
    kind: signal.Signals, demo_store: Path, two_processes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = options(demo_store, run, "--resume", "auto")
    command = script_command("pretrain.py", *arguments)

    code = start_and_signal(command, run, 3, lambda process: os.kill(process.pid, kind))
    assert code == 128 + kind
    done = len(losses(run))
    assert 3 <= done < NUM_STEPS
    assert torch.load(newest(run))["step"] == done
    assert not (run / "backbone.safetensors").exists()
    if kind != signal.SIGTERM:
        return
    resumed = run_script("pretrain.py", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    # This run had one process; that the other had two must not matter either.
    assert losses(run) == pytest.approx(losses(two_processes), rel=1e-3)


@pytest.mark.fault
def test_one_process_computes_what_two_compute(demo_store: Path, two_processes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_script("pretrain.py", *options(demo_store, run))
    assert done.returncode == 0, done.stderr
    one, two = losses(run), losses(two_processes)
    # The sums of gradients are taken in another order; nothing else differs, so the gap starts at rounding.
    assert one[:3] == pytest.approx(two[:3], rel=2e-5)
    assert one == pytest.approx(two, rel=1e-3)
    states = [torch.load(newest(path))["model"] for path in (run, two_processes)]
    assert torch.equal(states[0]["bank.video_ids"], states[1]["bank.video_ids"])
    for name in states[0]:
        if name.endswith("num_batches_tracked"):
            continue  # counts the groups of a process
        torch.testing.assert_close(states[0][name].float(), states[1][name].float(), rtol=2e-2, atol=2e-3)


def test_a_finished_run_leaves_all_its_parts(two_processes: Path) -> None:
    row = read_metrics(two_processes / "metrics.jsonl")[-1]
    names = ("loss_visual", "loss_motion", "loss_visual_to_motion", "loss_motion_to_visual")
    assert row["loss"] == pytest.approx(sum(row[name] for name in names), rel=1e-5)
    assert {"epoch", "top1_visual", "samples_per_s", "data_wait"} <= row.keys()
    assert row["frames_decoded"] == row["frames_used"] == 8 * 2 * (8 + 16)  # of rank 0's half of the batch
    assert row["bytes_read"] == row["bytes_needed"] > 10_000
    budget = json.loads((two_processes / "budget.json").read_text())
    assert sum(phase["share"] for phase in budget["phases"].values()) == pytest.approx(1, abs=0.01)
    assert {"data_wait", "queries", "backward", "other"} <= budget["phases"].keys()
    assert (budget["data"]["amplification"], budget["data"]["bytes_read_vs_needed"]) == (1.0, 1.0)
    config = json.loads((two_processes / "config.json").read_text())
    assert config["batch_size"] == 16
    assert config["objective"]["cross_negatives"] == "other"
    backbone = load_backbone(two_processes / "backbone.safetensors")
    state = torch.load(newest(two_processes))["model"]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[f"online.visual.{name}"]), name
    for picture in ("loss.png", "clips.png"):
        assert (two_processes / picture).read_bytes().startswith(b"\x89PNG")
    umask = os.umask(0o022)
    os.umask(umask)
    modes = {path: path.stat().st_mode & 0o777 for path in two_processes.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.arch", "r50"], ["--model.arch r50 (saved: r18)", "another --out"]),
        (["--seed", 9], ["--seed 9 (saved: 0)"]),
    ],
)
def test_resume_refuses_another_run(demo_store: Path, two_processes: Path, more: list, words: list[str]) -> None:
    refused = run_script("pretrain.py", *options(demo_store, two_processes, "--resume", "auto", *more))
    assert_refused(refused, *words)


def test_a_run_is_not_overwritten(demo_store: Path, two_processes: Path) -> None:
    assert_refused(
        run_script("pretrain.py", *options(demo_store, two_processes)), "--resume auto", "--overwrite", "another --out"
    )


def start_two(command: list[str]) -> list[subprocess.Popen[str]]:
    """Two processes that no launcher ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=world | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(
            signal.SIGSTOP,
            r"rank 0 waited for another rank longer than --collective-timeout 30 \(seconds\)",
            marks=pytest.mark.long,
        ),
        (signal.SIGKILL, "rank 0 lost another rank"),
    ],
)
def test_a_rank_that_stops_or_dies_ends_the_other_with_the_phase(
    kind: signal.Signals, said: str, demo_store: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    more = ["--collective-timeout", 30, "--max-steps", 100_000, "--epochs", 100_000]
    waiting, stopped = processes = start_two(
        script_command("pretrain.py", *options(demo_store, tmp_path / "run", *more))
    )
    try:
        while not metrics.exists() or len(read_metrics(metrics)) < 3:
            assert waiting.poll() is None, waiting.communicate()[1]
            time.sleep(0.05)
        stopped.send_signal(kind)
        message = " ".join(waiting.communicate(timeout=HANG)[1].split())
        assert waiting.returncode == 2, message
        assert "Traceback" not in message
        error = message[message.index("error:") :]
        assert re.search(f"error: {said}", error)
        phase = re.search(r", in the phase (\w+) of a step[.:]", error)
        assert phase
        assert phase[1] in PHASES
        assert "In torch's words: " in error
    finally:
        for process in processes:
            process.kill()


@pytest.mark.fault
def test_every_process_ends_where_the_weights_diverged(demo_store: Path, tmp_path: Path) -> None:
    """Rank 0 alone saves, and the other must hear that it did not."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("of an old run\n")
    diverging = ["--optim.lr", 1e45, "--optim.warmup-epochs", 10, "--max-steps", 2, "--overwrite"]
    command = script_command("pretrain.py", *options(demo_store, run, *diverging))
    processes = start_two(command)
    try:
        for process in processes:
            message = " ".join(process.communicate(timeout=200)[1].split())
            assert process.returncode == 2, message
            assert "after step 2 the state has numbers that are not finite" in message
            assert "there is no checkpoint from before" in message
    finally:
        for process in processes:
            process.kill()
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2]
    assert not any((run / name).exists() for name in ("checkpoints", "backbone.safetensors"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--preset", "modist-r5O"], ["--preset modist-r5O", "modist-r50", "demo"]),
        (["--objective.bank-size", 8], ["--objective.bank-size 8", "--batch-size 16"]),
        (["--batch-size", 18], ["--batch-size 18", "multiple of 4"]),
        (["--loader.hw-decoder-load", 65], ["--loader.hw-decoder-load 65", "at least 0 and at most 1"]),
        (["--clips.motion-threshold", 2], ["--clips.motion-threshold 2", "share", "units of [0, 10] by 10"]),
        (["--group-size", 16], ["--group-size 16", "--objective.no-shuffle-bn"]),
        (["--batch-size", 64], ["32", "--batch-size 64"]),
        (["--device", "cuda"], ["--device cuda", "doctor"]),
        (["--clips.motion-input", "difference"], ["--motion-inputs difference", "--clips.motion-input"]),
    ],
)
def test_bad_options_get_one_paragraph(demo_store: Path, tmp_path: Path, more: list, words: list[str]) -> None:
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a CUDA device: the option is right here")
    refused = run_script("pretrain.py", *options(demo_store, tmp_path / "run", *more))
    assert_refused(refused, *words)


def test_a_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    refused = run_script("pretrain.py", *options(tmp_path, tmp_path / "run"))
    assert_refused(refused, str(tmp_path.name), "modist prepare")


def assert_refused(process: subprocess.CompletedProcess[str], *words: str) -> None:
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    message = " ".join(process.stderr.split("error: ")[-1].split())
    for word in words:
        assert word in message, message
