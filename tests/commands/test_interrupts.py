"""Signals end a command with a code that is not 0, and nothing half; two commands never write one directory."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from modist_fast.demo_videos import make_demo_videos
from modist_fast.errors import ConfigError
from modist_fast.host import interrupts
from modist_fast.host.interrupts import Interrupted, noted, raise_interrupted
from modist_fast.run.files import refuse_other_task
from tests.commands.launching import HANG, kill_family, newest, run_script, script_command, start_and_signal

pytestmark = pytest.mark.fault

SMALL = ("--preset", "demo", "--device", "cpu", "--precision", "fp32", "--batch-size", 8, "--group-size", 4)
SMALL += ("--model.visual-width", 8, "--clips.crop-size", 32, "--objective.bank-size", 16, "--max-steps", 60)


def words(store: Path, run: Path, *more: object) -> list[str]:
    return [str(word) for word in (*SMALL, "--store", store, "--out", run, *more)]


@pytest.mark.slow
def test_torchrun_ends_with_an_error_after_all_ranks_have_saved(demo_store: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = script_command("pretrain.py", *words(demo_store, run), processes=2)
    code = start_and_signal(command, run, 3, lambda process: os.kill(process.pid, signal.SIGTERM))
    assert code != 0
    assert torch.load(newest(run))["step"] >= 3
    assert not (run / "backbone.safetensors").exists()


@pytest.mark.slow
def test_processes_save_and_end_when_their_launcher_was_killed(demo_store: Path, tmp_path: Path):
    run, ranks = tmp_path / "run", []

    def kill_launcher(process: subprocess.Popen) -> None:
        ranks.extend(psutil.Process(process.pid).children(recursive=True))
        process.kill()

    start_and_signal(script_command("pretrain.py", *words(demo_store, run), processes=2), run, 3, kill_launcher)
    assert len(ranks) >= 2
    assert psutil.wait_procs(ranks, timeout=HANG)[1] == []
    assert 3 <= torch.load(newest(run))["step"] < 60
    assert not (run / "backbone.safetensors").exists()


@pytest.mark.slow
def test_two_starts_at_once_and_the_code_that_was_asked_for(demo_store: Path, tmp_path: Path):
    """The second start is refused in words that name the first; a killed one leaves nothing that is in the way."""
    run = tmp_path / "run"
    refused = []

    def start_another(process: subprocess.Popen) -> None:
        refused.append(run_script("pretrain.py", *words(demo_store, run, "--resume", "auto")))
        os.kill(process.pid, signal.SIGUSR1)

    command = script_command("pretrain.py", *words(demo_store, run, "--requeue-exit-code", 75))
    assert start_and_signal(command, run, 3, start_another) == 75
    (second,) = refused
    assert second.returncode == 2
    message = " ".join(second.stderr.split())
    assert f"error: --out {run}: process " in message
    assert "is writing there. Wait for its end, or choose another --out." in message
    assert "Traceback" not in second.stderr
    command = script_command("pretrain.py", *words(demo_store, run, "--resume", "auto"))
    start_and_signal(command, run, 8, kill_family)
    command = script_command("pretrain.py", *words(demo_store, run, "--resume", "auto", "--max-steps", 9))
    assert subprocess.run(command, capture_output=True, check=False, timeout=HANG).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_preparing_is_interrupted_and_goes_on(kind: signal.Signals, tmp_path: Path):
    videos, store = tmp_path / "videos", tmp_path / "store"
    make_demo_videos(videos, num_videos=16, seed=0, workers=2)
    command = script_command("prepare.py", str(videos), "--out", str(store), "--short-side", "144", "--workers", "2")
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    ) as process:
        deadline = time.monotonic() + HANG
        while not list(store.glob("**/*.bin")):
            assert process.poll() is None, "over before it could be disturbed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(kind)
        _, error = process.communicate(timeout=HANG)
    assert process.returncode == 128 + kind
    assert f"interrupted by {kind.name}. What was finished is kept" in error
    assert "Traceback" not in error
    assert not [path for path in store.glob("**/*.bin") if path.parent.name == ".partial"], "half shards are removed"
    assert run_script("prepare.py", *command[command.index(str(videos)) :]).returncode == 0
    assert (store / "store.json").exists() or list(store.glob("*.json"))


def test_a_second_ctrl_c_ends_at_once_but_not_the_one_that_a_launcher_hands_on(monkeypatch):
    clock, seen = [100.0], []
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: clock[0])
    before = [signal.getsignal(signum) for signum in interrupts.SIGNALS]

    def press_twice() -> None:
        with noted(seen.append):
            os.kill(os.getpid(), signal.SIGINT)
            clock[0] += 0.2
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGINT, signal.SIGINT, signal.SIGTERM]
            clock[0] += 3
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("it goes on")

    with pytest.raises(Interrupted, match="Nothing was saved since"):
        press_twice()
    assert [signal.getsignal(signum) for signum in interrupts.SIGNALS] == before
    with pytest.raises(Interrupted, match=r"by SIGUSR1\. What was finished is kept") as caught:
        raise_interrupted(signal.SIGUSR1, None)
    assert caught.value.code == 128 + signal.SIGUSR1


def test_the_result_of_another_task_is_not_replaced(tmp_path: Path):
    refuse_other_task(tmp_path, "knn")
    (tmp_path / "result.json").write_text('{"task": "linear"}')
    refuse_other_task(tmp_path, "linear")
    with pytest.raises(ConfigError, match="holds the result of linear, which knn would replace"):
        refuse_other_task(tmp_path, "knn")
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds the result of something else"):
        refuse_other_task(tmp_path, "knn")
