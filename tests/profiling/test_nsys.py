"""The step budget out of stored tables of `nsys stats`, against sums by hand."""

import shutil
from pathlib import Path

import pytest

from modist_profiling import nsys

STORED = Path(__file__).with_name("nsys")


def test_phases_by_hand():
    ranks = nsys.read_stats(STORED)
    assert [(stats.rank, stats.num_steps) for stats in ranks] == [(0, 4), (1, 4)]
    phases = nsys.phases_of(ranks)
    milliseconds = {name: [1e3 * value for value in phase["by_rank"]] for name, phase in phases.items()}
    assert milliseconds["backward"] == pytest.approx([50, 50])
    assert milliseconds["data_wait"] == pytest.approx([2, 10])
    # Steps of 100 ms and the wait before each; 92 ms of work on the device.
    assert milliseconds["other"] == pytest.approx([8, 8])
    assert milliseconds["loss"] == pytest.approx([1, 1]), "two groups a step"
    assert milliseconds["all_reduce"] == [0, 0]
    assert phases["queries"]["share"] == pytest.approx(20 / 106)
    assert sum(phase["share"] for phase in phases.values()) == pytest.approx(1)


def test_table_shows_operations_communication_and_kernels():
    lines = nsys.table(nsys.read_stats(STORED)).splitlines()
    assert lines[0] == "step budget by nsys: 4 steps of 2 processes, 106.0 ms a step"
    assert lines[1].split()[:2] == ["backward", "50.0"]
    # 1600 + 900 + 900 + 64 + 16 operations of the phases; the loader's decoding is not the step's.
    assert "  870 GPU operations a step on rank 0" in lines
    assert "  nccl kernels: 5.00 ms a step, hidden behind other work or not" in lines
    kernels = lines[lines.index("  longest kernels:") + 1 :]
    assert kernels[0].startswith("      30.000 ms     75 × void cutlass")
    assert "batch_norm_backward" in kernels[1], "a name with commas in it"


def test_what_is_missing_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no nsys-rankR_nvtx_pushpop_sum.csv"):
        nsys.read_stats(tmp_path)
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    pushpop = tmp_path / "nsys-rank1_nvtx_pushpop_sum.csv"
    whole = pushpop.read_text()
    pushpop.write_text("SKIPPED: nsys-rank1.sqlite does not contain NV Tools Extension (NVTX) data.\n")
    with pytest.raises(ValueError, match=r"no range modist:step: nothing was recorded"):
        nsys.read_stats(tmp_path)
    pushpop.write_text("NOTICE: Existing SQLite export found: nsys-rank1.sqlite\n\n" + whole)
    assert len(nsys.read_stats(tmp_path)) == 2
    (tmp_path / "nsys-rank0_cuda_gpu_kern_sum.csv").unlink()
    with pytest.raises(ValueError, match=r"rank0_cuda_gpu_kern_sum.csv is missing"):
        nsys.read_stats(tmp_path)
