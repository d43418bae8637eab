"""The loss and the flow edges by another library's arrays, in float64: NumPy here, CuPy on a GPU.

The formulas are written for either, so that what a GPU is held against has been held against the CPU before.
"""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import make_case
from torch import Tensor

from modist_kernels import flow_edges, queue_infonce
from modist_kernels.queue_infonce.definition import POSITIVE, QUERY

PLACES = [
    pytest.param("numpy", "cpu", id="numpy"),
    pytest.param("cupy", "cuda", id="cupy", marks=pytest.mark.gpu),
]


def library(name: str) -> ModuleType:
    return pytest.importorskip(name, reason="CuPy is the independent oracle of this test")


def taken(xp: ModuleType, tensor: Tensor) -> Any:
    """float64 array of the tensor's numbers, where it lies."""
    return xp.from_dlpack(tensor.detach().contiguous()).astype(xp.float64)


@pytest.mark.parametrize(("name", "device"), PLACES)
@pytest.mark.parametrize("cross_negatives", ["own", "other"])
@pytest.mark.parametrize("kind", ["random", "masked", "part-filled"])
def test_the_loss_by_another_library(name, device, cross_negatives, kind):
    xp = library(name)
    case = make_case(batch=6, num=200, dim=32, kind=kind, cross_negatives=cross_negatives)
    moved = [tensor.to(device) for tensor in case.arguments]
    queries, keys, bank = (taken(xp, tensor) for tensor in moved[:3])
    bank_ids, ids = (taken(xp, tensor) for tensor in moved[3:])
    temperature = case.options["temperature"]
    excluded = (bank_ids[None] < 0) | (bank_ids[None] == ids[:, None])
    losses = []
    for query, positive in zip(QUERY, POSITIVE, strict=True):
        negatives = bank[positive if cross_negatives == "other" else query]
        wrong = xp.where(excluded, -xp.inf, queries[query] @ negatives.T / temperature)
        right = (queries[query] * keys[positive]).sum(1) / temperature
        losses.append(-right + xp.log(xp.exp(right) + xp.exp(wrong).sum(1)))
    found = taken(xp, queue_infonce(*moved, **case.options).losses)
    assert float(abs(found - xp.stack(losses)).max()) < 1e-5


@pytest.mark.parametrize(("name", "device"), PLACES)
@pytest.mark.parametrize("border", ["replicate", "zero"])
def test_flow_edges_by_another_library(name, device, border):
    xp = library(name)
    ndimage = importlib.import_module("cupyx.scipy.ndimage" if name == "cupy" else "scipy.ndimage")
    flow = 4 * torch.randn(3, 2, 40, 56, generator=torch.Generator().manual_seed(5)).to(device)
    across = xp.asarray([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], xp.float64)
    edges, score = flow_edges(flow, border=border, gain=0.5, clamp=10.0, out_dtype=torch.float32)
    mode = {"replicate": "nearest", "zero": "constant"}[border]
    for frame, vectors in enumerate(taken(xp, flow)):
        length = xp.sqrt((vectors**2).sum(0))
        slopes = [ndimage.correlate(length, weights, mode=mode) for weights in (across, across.T)]
        expected = xp.minimum(0.5 * xp.sqrt(slopes[0] ** 2 + slopes[1] ** 2), 10.0)
        assert float(abs(taken(xp, edges[frame]) - expected).max()) < 1e-4
        assert float(score[frame]) == pytest.approx(float(expected.mean()), abs=1e-4)
