"""Kill a run of two processes again and again, and compare what it comes to: python -m tests.faults.kills [--kills 30]

Most kills come at a random moment of the steps, the others while the processes start. After each the newest checkpoint
must be whole and none of the steps saved before may be lost. The run that was killed must have, in the end, exactly
the losses and the backbone of one that nothing disturbed, and no file half written.
"""

import argparse
import hashlib
import os
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from modist_fast.run import checkpoint
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import HANG, REPOSITORY, kill_family, run_script, script_command

SMALL = "--preset demo --device cpu --precision fp32 --batch-size 8 --group-size 4 --model.visual-width 4"
SMALL += " --model.motion-width 4 --clips.crop-size 32 --objective.bank-size 16 --epochs 1000 --checkpoint.keep 2"
START_SECONDS = 12.0  # within which a kill of the start comes


@dataclass
class Soaked:
    """What a run with kills came to.

    Attributes:
        at: step of the last line before each kill; -1 for a kill before this start had taken a step.
        saved: step of the newest checkpoint after each kill, 0 for none.
    """

    at: list[int]
    saved: list[int]


@dataclass
class Left:
    """What a run left: its losses, the digest of its backbone, the names of its files."""

    losses: list[tuple[int, float]]
    backbone: str
    files: set[str]


def options(store: Path, run: Path, steps: int, every: int) -> list[object]:
    return [
        *SMALL.split(),
        *("--store", store, "--out", run, "--max-steps", steps, "--checkpoint.every", every, "--resume", "auto"),
    ]


def steps_of(run: Path) -> int:
    """Lines that the run has written whole."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saved_step(run: Path) -> int:
    """Of the newest checkpoint, which must be whole; 0 where there is none."""
    path = checkpoint.latest(run)
    return 0 if path is None else torch.load(path, weights_only=True)["step"]


def kill_once(command: list[str], run: Path, after: int | None, seconds: float) -> int:
    """Start the run and kill all its processes: `seconds` after it has gone on past step `after`, or after its start.

    Returns:
        Steps done when it was killed; -1 where it was killed while starting.
    """
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + HANG
    while after is not None and steps_of(run) <= after:
        assert process.poll() is None, f"the run ended with {process.returncode} before it could be killed"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)
    time.sleep(seconds)
    done = steps_of(run) if after is not None else -1
    kill_family(process)
    return done


def soak(store: Path, run: Path, steps: int, kills: int, every: int, seed: int) -> Soaked:
    """Kill and go on until all kills are spent, then let the run end.

    Raises:
        AssertionError: a checkpoint was lost, or the run cannot go on.
    """
    draw, found = random.Random(seed), Soaked([], [])
    command = script_command("pretrain.py", *options(store, run, steps, every), processes=2)
    for number in range(kills):
        starting = number % 5 == 4
        # Spread over the run; a resumed one drops the lines after its checkpoint before it takes them again.
        wanted = None if starting else min(max(saved_step(run), steps * number // kills), steps - 2 * every)
        seconds = draw.uniform(0, START_SECONDS if starting else 0.4)
        found.at.append(kill_once(command, run, wanted, seconds))
        found.saved.append(saved_step(run))
        assert found.saved[-1] >= max(found.saved[:-1], default=0), f"checkpoint lost: {found.saved}"
        print(f"kill {number + 1}: at step {found.at[-1]}, checkpoint of step {found.saved[-1]}", flush=True)
    done = run_script("pretrain.py", *options(store, run, steps, every), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


def _left_by(run: Path) -> Left:
    rows = read_metrics(run / "metrics.jsonl")
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.parent.name != "tensorboard"}
    digest = hashlib.sha256((run / "backbone.safetensors").read_bytes()).hexdigest()
    return Left([(row["step"], row["loss"]) for row in rows], digest, files)


def compare(run: Path, undisturbed: Path) -> None:
    """Raises AssertionError where two runs differ, or one has left half a file."""
    one, other = (_left_by(path) for path in (run, undisturbed))
    assert one.losses == other.losses, "the losses differ"
    assert one.backbone == other.backbone, "the backbones differ"
    assert one.files == other.files, f"other files: {one.files ^ other.files}"


def make_store(folder: Path) -> Path:
    made = run_script("make_demo_videos.py", folder / "videos", "--num-videos", 32, "--seed", 0)
    assert made.returncode == 0, made.stderr
    prepared = run_script("prepare.py", folder / "videos", "--out", folder / "store", "--short-side", 48)
    assert prepared.returncode == 0, prepared.stderr
    return folder / "store"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder)
        done = run_script("pretrain.py", *options(store, folder / "whole", asked.steps, asked.every), processes=2)
        assert done.returncode == 0, done.stderr[-3000:]
        found = soak(store, folder / "killed", asked.steps, asked.kills, asked.every, asked.seed)
        compare(folder / "killed", folder / "whole")
    starts = found.at.count(-1)
    print(f"{asked.kills} kills, {starts} of them while starting: the same {asked.steps} losses and backbone")


if __name__ == "__main__":
    main()
