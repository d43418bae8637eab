"""The benchmarks of the kernels: their arithmetic, and that they run and report what they must."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from modist_fast.watch.rates import Roofline
from modist_kernels import flow_edges_reference
from modist_profiling.kernels.edges import CLAMP, SOBEL
from modist_profiling.kernels.traffic import edges_compulsory_bytes, loss_compulsory_bytes
from modist_profiling.kernels.turns import KernelRow, interleave, measure, peak_extra_memory

pytestmark = pytest.mark.slow

PROFILING = Path(__file__).parents[2] / "profiling"
CPU = torch.device("cpu")


def run_script(tmp_path: Path, script: str, *arguments: str) -> dict:
    report = tmp_path / "report.json"
    files = ["--json", str(report), "--csv", str(tmp_path / "report.csv"), "--plot", str(tmp_path / "report.png")]
    command = [sys.executable, str(PROFILING / script), *arguments, *files, "--seconds", "0.2"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(report.read_text())["rows"]
    assert len((tmp_path / "report.csv").read_text().splitlines()) == len(rows) + 1
    assert (tmp_path / "report.png").stat().st_size > 5000
    return json.loads(report.read_text())


def test_loss(tmp_path: Path) -> None:
    report = run_script(
        tmp_path, "bench_loss.py", "--batch", "4", "--num", "2048", "--dim", "64", "--no-compile", "--no-count"
    )
    providers = {row["name"]: row for row in report["rows"]}
    assert {"naive four terms", "shared products", "modist queue_infonce"} <= set(providers)
    mine, naive = providers["modist queue_infonce"], providers["naive four terms"]
    assert mine["p20"] <= mine["median"] <= mine["p80"]
    assert mine["gradient_error"] < 1e-5
    assert naive["speedup"] == 1
    assert naive["extra_memory"] > 4 * 2048 * 64 * 4  # the bank in fp32, once for each term
    assert {"loss_cpu_speedup_vs_naive", "loss_cpu_memory_vs_naive"} <= set(report["ratios"])
    assert report["environment"]["torch"] == torch.__version__


def test_edges(tmp_path: Path) -> None:
    report = run_script(tmp_path, "bench_edges.py", "--frames", "2", "--size", "40")
    assert {row["name"] for row in report["rows"]} >= {"OpenCV", "plain torch", "modist flow_edges"}
    half_a_level = 0.5 / 255
    assert all(row["gradient_error"] <= half_a_level * 1.01 for row in report["rows"])
    assert "edges_cpu_speedup_vs_opencv" in report["ratios"]
    assert 1 < report["ratios"]["edges_traffic_vs_compulsory"] < 1.3  # counted in a process of its own


def test_runs_are_interleaved() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleave(runs, rounds=4, seconds=10, device=CPU)
    assert "".join(order) == "abc" * 5  # one of them before the clock starts
    assert [len(values) for values in times.values()] == [4, 4, 4]


def test_peak_memory_is_that_of_the_largest_moment() -> None:
    def run() -> None:
        first = torch.ones(1 << 20)  # 4 MiB
        second = first + first
        del first
        third = second + second  # never three at once
        del second, third

    assert peak_extra_memory(run, CPU) == pytest.approx(8 << 20, rel=0.05)


def test_roofline_and_speedup_of_a_row() -> None:
    limits = Roofline("a machine", bandwidth=10.0, compute=1.0, source="made up")
    assert limits.seconds(1e10, 1e12) == 1.0
    assert limits.seconds(2e10, 1e12) == 2.0
    assert limits.seconds(1e10, 3e12) == 3.0
    common = {"shape": {"n": 1}, "flops": 1e6, "least_ms": 1e3 * limits.seconds(1e6, 1e6)}
    one, two = KernelRow("nothing", "one", bytes_moved=1e6, **common), KernelRow("nothing", "two", **common)
    rows = measure([(one, lambda: None), (two, lambda: None)], CPU, rounds=5, seconds=1)
    assert rows[0].speedup == 1
    assert rows[1].bandwidth is None
    assert rows[0].bandwidth == pytest.approx(1e6 / rows[0].median / 1e6)
    assert rows[0].roofline_share == pytest.approx(0.1 / rows[0].median)


def test_compulsory_bytes() -> None:
    # Two banks of 65536 x 128 fp16, their ids; queries, keys, gradient of 2 x 32 x 128 fp32; 16 x 32 results, 32 ids.
    expected = 2 * 65536 * 256 + 65536 * 4 + 3 * 2 * 32 * 512 + 16 * 32 * 4 + 32 * 4
    assert loss_compulsory_bytes(modalities=2, batch=32, num=65536, dim=128) == expected
    assert edges_compulsory_bytes(3, 224, 224, 2, 1) == 3 * (224 * 224 * 5 + 4)


def test_sobel_of_the_cupy_row_is_of_each_frame() -> None:
    """By SciPy, whose `correlate` CuPy's is; its `sobel` would smooth from frame to frame."""
    flow = torch.randn(3, 2, 9, 11, dtype=torch.float64)
    expected, _ = flow_edges_reference(flow, clamp=CLAMP, out_dtype=torch.float32)
    magnitude = flow.square().sum(1).sqrt().numpy()
    across, down = (ndimage.correlate(magnitude, one, mode="nearest") for one in (SOBEL, SOBEL.transpose(0, 2, 1)))
    np.testing.assert_allclose(np.minimum(np.hypot(across, down), CLAMP), expected.numpy(), rtol=1e-5, atol=1e-5)
    smoothed = ndimage.sobel(magnitude, axis=2, mode="nearest")
    assert np.abs(smoothed - across).max() > 1
