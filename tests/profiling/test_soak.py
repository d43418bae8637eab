"""The long-run watch: it sees planted leaks, and a real run of several hundred videos shows none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from clip_store import make_store

from modist_profiling.soak import Watched, flatness, lasting, watch

pytestmark = [pytest.mark.slow, pytest.mark.fault]

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_VIDEOS = 320

PROGRAM = """
import sys, time
held = []
for turn in range(25):
    if "memory" in sys.argv:
        held.append(bytearray(b"x" * 2_000_000))
    if "files" in sys.argv:
        held.append(open(sys.executable, "rb"))
    time.sleep(0.1)
"""


@pytest.mark.parametrize("leak", ["nothing", "memory", "files"])
def test_planted_leak_is_seen(leak: str) -> None:
    code, watched = watch([sys.executable, "-c", PROGRAM, leak], lambda line: line.endswith(f" {leak}"), interval=0.05)
    assert code == 0
    (process,) = watched
    # In shares of what it lasted here, with the interpreter's start in the first third.
    end = process.seconds[-1]
    found = flatness(process, 0.35 * end, 0.65 * end, end)
    assert (found.growth > 0.1) == (leak == "memory")
    assert (found.last_files > found.warm_files + 3) == (leak == "files")


def test_children_of_the_command_are_watched_and_others_are_not() -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PROGRAM!r}, 'inner'])"
    _, watched = watch([sys.executable, "-c", program], lambda line: line.endswith(" inner"))
    assert len(watched) == 1


def test_a_child_seen_before_it_became_another_program_is_left_out() -> None:
    rank = Watched(1, [0, 1, 2, 3], [10, 10, 10, 10], [3, 3, 3, 3])
    forked = Watched(2, [0.5], [10], [3])
    assert lasting([rank, forked], 1) == [rank]


def test_windows_are_medians() -> None:
    process = Watched(1, [0, 1, 2, 3, 4, 5, 6], [10, 100, 110, 900, 121, 121, 5000], [3, 4, 4, 9, 4, 5, 5])
    found = flatness(process, 1, 4, 6)
    assert (found.warm_mb, found.last_mb) == (110, 121)
    assert (found.warm_files, found.last_files) == (4, 4.5)
    assert found.growth == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no sample on one side of 7"):
        flatness(process, 1, 7, 9)


def test_three_epochs_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    """Two processes train on 320 videos; the third epoch is held against the second."""
    lengths = [16 + 37 * video % 44 for video in range(NUM_VIDEOS)]
    make_store(tmp_path / "store", lengths, height=72, width=96)
    command = [sys.executable, "profiling/soak.py", "--store", tmp_path / "store", "--out", tmp_path / "run"]
    command += ["--interval", "0.05"]  # an epoch may be as short as a second
    done = subprocess.run(
        [*command, "--json", tmp_path / "soak.json"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "soak.json").read_text())
    assert len(record["processes"]) == 2
    assert len(record["epoch_ends"]) == 3
    for process in record["processes"]:
        in_last = [second for second in process["seconds"] if second >= record["epoch_ends"][1]]
        assert len(in_last) > 5, "too short to show anything"
