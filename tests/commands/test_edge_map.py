"""The wiring of flow and edges: the edges are taken where the flow lies."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist_fast.commands.edge_map import edge_map
from modist_kernels import flow_edges, flow_edges_reference
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.flow import DisFlow
from modist_pipelines.prepare.motion import MotionMaps, motion_scales
from modist_pipelines.video.write import write_video
from tests.pipelines.fake_cuda import FakeCuda, FakeTensor


@pytest.fixture
def flow() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 40, 48, 2)).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_edges_of_a_tensor_are_those_of_the_array(flow: np.ndarray, device: str) -> None:
    edges, mean = edge_map(torch.from_numpy(flow).to(device), gain=0.5, border="zero", clamp=8.0)
    expected, expected_mean = flow_edges_reference(
        torch.from_numpy(flow).double(), layout="hwc", gain=0.5, border="zero", clamp=8.0
    )
    assert edges.dtype == np.uint8
    assert np.abs(edges.astype(int) - expected.numpy().astype(int)).max() <= 1  # halves may round either way
    assert mean == pytest.approx(expected_mean.numpy(), rel=1e-5)
    from_array, mean_of_array = edge_map(flow, gain=0.5, border="zero", clamp=8.0)
    assert np.abs(edges.astype(int) - from_array.astype(int)).max() <= 1
    assert mean == pytest.approx(mean_of_array, rel=1e-5)


class GpuFlow:
    """The flow of DIS, as tensors of a GPU that is not there."""

    batch_size = 4

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self._dis = cuda, DisFlow()

    def __call__(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> torch.Tensor:
        return placed(self._cuda, torch.from_numpy(self._dis(firsts, seconds)))


def placed(cuda: FakeCuda, values: torch.Tensor) -> FakeTensor:
    return cuda.tensor(values, cuda.new_block("torch", 0, cuda.timeline.enqueue(0)))


class Kept:
    def __init__(self) -> None:
        self.frames: list[tuple[bytes, Any]] = []

    def append(self, rgb: bytes, motion: Any) -> None:
        self.frames.append((rgb, motion))


def frame_by_frame(flows: torch.Tensor, **options: Any) -> tuple[np.ndarray, list[float]]:
    """As it was: a call and two copies a frame."""
    found = [edge_map(flow[None], **options) for flow in flows]
    return np.concatenate([edges for edges, _ in found]), [float(mean[0]) for _, mean in found]


@pytest.mark.parametrize(("function", "per_batch"), [(edge_map, True), (frame_by_frame, False)])
def test_a_batch_of_flows_is_one_call_and_one_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, per_batch: bool
) -> None:
    cuda, calls = FakeCuda().install(monkeypatch), []
    random = np.random.default_rng(0)
    pictures = np.kron(random.integers(0, 256, (12, 20, 1)), np.ones((8, 8, 3))).astype(np.uint8)
    write_video(tmp_path / "0.mp4", np.stack([np.roll(pictures, 2 * shift, axis=1) for shift in range(40)]), 30.0)

    def encode(flow: Any, function: Any) -> list[tuple[bytes, Any]]:
        motion = MotionMaps(motion_scales(["edges"], 10.0), function, gain=1.0, border="replicate")
        encoder = VideoEncoder(short_side=96, fps=30.0, grid=4, jpeg_quality=90, flow=flow, motion=motion)
        encoder.encode(tmp_path / "0.mp4", kept := Kept())
        return kept.frames

    expected = encode(DisFlow(), edge_map)

    def on_gpu(flows: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(flows))
        with torch._C.DisableTorchFunctionSubclass():
            edges, means = flow_edges(flows.as_subclass(torch.Tensor), **options)
        return placed(cuda, edges), placed(cuda, means)

    monkeypatch.setattr(importlib.import_module("modist_fast.commands.edge_map"), "flow_edges", on_gpu)
    monkeypatch.setattr(FakeTensor, "device", torch.device("cuda", 0), raising=False)
    assert encode(GpuFlow(cuda), function) == expected
    copies = [name for block in cuda.timeline.blocks for _, name in block.reads if name in ("numpy", "item", "tolist")]
    assert sum(calls) == len(expected) == 10
    num = 3 if per_batch else 10
    assert (len(calls), len(copies)) == (num, num)
