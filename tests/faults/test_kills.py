"""A few kills of a run; thirty, and their figures: python -m tests.faults.kills."""

from pathlib import Path

import pytest

from tests.commands.launching import run_script
from tests.faults.kills import compare, options, soak

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.long]
STEPS, EVERY = 40, 5


def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_one(demo_store: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_script("pretrain.py", *options(demo_store, whole, STEPS, EVERY), processes=2)
    assert done.returncode == 0, done.stderr
    found = soak(demo_store, killed, STEPS, kills=3, every=EVERY, seed=1)
    assert len(found.at) == 3
    assert max(found.saved) > 0
    compare(killed, whole)
