"""Too little memory: what was asked for, when, and what to lower, in real processes."""

from pathlib import Path

import pytest
import torch

from modist_fast.commands.cli import run_cli
from modist_fast.run.out_of_memory import during_steps, shortage
from tests.commands.launching import newest
from tests.commands.test_bad_steps import pretrain

pytestmark = pytest.mark.fault

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB of which 1.20 GiB is free. "
    "Including non-PyTorch memory, this process has 77.90 GiB memory in use. Of the allocated memory 70.00 GiB is "
    "allocated by PyTorch, and 6.00 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation. See documentation for Memory"
)


@pytest.mark.slow
@pytest.mark.long
def test_a_rank_without_memory_at_the_first_step_says_what_to_lower(demo_store: Path, tmp_path: Path) -> None:
    done = pretrain(demo_store, tmp_path / "run", "no-memory")
    assert done.returncode != 0
    assert "rank 1 ran out of memory at step 1, in the phase loss of a step: can't allocate memory" in done.stderr
    assert "1125899906842624 bytes" in done.stderr
    assert "Lower --group-size 4, --clips.crop-size 32" in done.stderr
    assert "there is no checkpoint from before" in done.stderr
    assert not (tmp_path / "run" / "backbone.safetensors").exists()


@pytest.mark.slow
def test_a_rank_without_memory_later_says_that_it_was_enough_before(demo_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(demo_store, run, "no-memory-later")
    assert done.returncode != 0
    assert "rank 1 ran out of memory at step 4" in done.stderr
    assert "3 steps of this attempt had enough: look whether another program" in done.stderr
    assert "go on with --resume auto: the checkpoint kept is" in done.stderr
    assert newest(run).name == "step-00000002.pt"


def test_the_words_of_a_gpu_are_kept_without_its_hints() -> None:
    lacking = shortage(torch.OutOfMemoryError(OF_CUDA))
    assert lacking is not None
    assert lacking.startswith("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert lacking.endswith("reserved by PyTorch but unallocated.")
    said = str(during_steps(torch.OutOfMemoryError(), lacking, rank=3, step=1, begun=0, lower="--group-size 8"))
    assert said.endswith("but unallocated. Lower --group-size 8.")
    resumed = str(during_steps(torch.OutOfMemoryError(), lacking, rank=3, step=12, begun=11, lower="--group-size 8"))
    assert "of this attempt had enough" not in resumed


def test_other_errors_are_no_shortage() -> None:
    assert shortage(RuntimeError("shape mismatch")) is None
    assert shortage(ValueError("DefaultCPUAllocator: can't allocate memory")) is None


def test_any_command_says_so_in_a_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    def greedy() -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    with pytest.raises(SystemExit) as ended:
        run_cli(greedy)
    assert ended.value.code == 2
    assert "error: out of memory: can't allocate memory: you tried to allocate 1125899906842624 bytes" in (
        capsys.readouterr().err
    )
