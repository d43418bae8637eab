"""The wiring of flow and edges: the edges are taken where the flow lies."""

import numpy as np
import pytest
import torch

from modist_fast.commands.edge_map import edge_map
from modist_kernels import flow_edges_reference


@pytest.fixture
def flow() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 48, 2)).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_edges_of_a_tensor_are_those_of_the_array(flow: np.ndarray, device: str) -> None:
    edges, mean = edge_map(torch.from_numpy(flow).to(device), gain=0.5, border="zero", clamp=8.0)
    expected, expected_mean = flow_edges_reference(
        torch.from_numpy(flow).double(), layout="hwc", gain=0.5, border="zero", clamp=8.0
    )
    assert edges.dtype == np.uint8
    assert np.abs(edges.astype(int) - expected.numpy().astype(int)).max() <= 1  # halves may round either way
    assert mean == pytest.approx(float(expected_mean), rel=1e-5)
    from_array, mean_of_array = edge_map(flow, gain=0.5, border="zero", clamp=8.0)
    assert np.abs(edges.astype(int) - from_array.astype(int)).max() <= 1
    assert mean == pytest.approx(mean_of_array, rel=1e-5)
