"""A rank that stands still ends the run, and both say where they stand."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modist_fast.watch.hang import CODE, HangWatcher
from tests.commands.launching import HANG, REPOSITORY, script_command
from tests.commands.test_interrupts import words

pytestmark = pytest.mark.fault


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_its_step_and_phase(demo_store: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = script_command("pretrain.py", *words(demo_store, run, "--hang-minutes", 0.25), processes=2)
    place = next(index for index, word in enumerate(command) if word.startswith(str(REPOSITORY / "launch")))
    command[place:place] = [str(Path(__file__).with_name("hanging.py")), "1", "3"]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=HANG
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "no step has ended for 0.25 minutes (--hang-minutes)." in message
    stands = [json.loads((run / f"hang-rank{rank}.txt").read_text().splitlines()[0]) for rank in (0, 1)]
    assert stands[1] == {"step": 3, "phase": "momentum"}
    assert stands[0]["step"] == 3
    assert stands[0]["phase"] in ("gather", "keys", "queries", "all_reduce")
    assert f"rank 0: step 3, {stands[0]['phase']}; rank 1: step 3, momentum." in message
    assert "update_momentum" in (run / "hang-rank1.txt").read_text(), "the stack of the thread that hangs"


def test_a_rank_that_says_nothing_is_told_from_one_that_waits(tmp_path: Path):
    """In a process of its own, since it ends it; the other rank is stopped, and writes no file."""
    script = (
        "import time, sys; from pathlib import Path; from modist_fast.watch import hang\n"
        "hang._OTHERS = 0.3\n"
        f"with hang.HangWatcher(Path({str(tmp_path)!r}), 0, 2, 1.0, lambda: 'gather') as watcher:\n"
        "    watcher.moved(6)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=HANG)
    assert done.returncode == CODE
    assert "rank 0: step 7, gather; rank 1: says nothing, so it is stopped, gone" in done.stderr


def test_steps_that_get_on_are_left_alone_and_0_watches_nothing(tmp_path: Path):

    with HangWatcher(tmp_path, 0, 1, 0.4, str) as watcher:
        for step in range(8):
            time.sleep(0.1)
            watcher.moved(step)
    with HangWatcher(tmp_path, 0, 1, 0.0, str) as watcher:
        assert not watcher._thread.is_alive()
    assert not list(tmp_path.iterdir())
