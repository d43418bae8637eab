"""Gradients in bf16 on the wire, summed in float32: real processes, against the sums written out."""

import sys
from pathlib import Path

import pytest

from tests.commands.launching import run_words

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_average_is_that_of_rounded_gradients_summed_in_float32(ranks: int) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = run_words([*words, str(Path(__file__).with_name("averaging_ranks.py"))])
    assert done.returncode == 0, done.stderr
