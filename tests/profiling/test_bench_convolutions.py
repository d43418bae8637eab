"""The ways in which a convolution is run compute the same gradient, and every convolution of the net is there."""

import pytest
import torch

from bench_convolutions import as_it_is, convolutions, runner, ways

CPU = torch.device("cpu")


@pytest.mark.parametrize("arch", ["r18", "r50"])
def test_all_ways_agree(arch) -> None:
    found = convolutions(arch, batch=1, crop=32)
    assert found.total() == {"r18": 20, "r50": 53}[arch]
    tried = set()
    for shape in found:
        kind = (shape.weight[2:], shape.stride)
        if kind in tried:
            continue
        tried.add(kind)
        expected = runner(as_it_is, shape, CPU)().float()
        for name, way in ways(shape).items():
            got = runner(way, shape, CPU)().float()
            assert float((got - expected).norm() / expected.norm()) < 1e-2, (name, shape)
    names = {name for shape in found for name in ways(shape)}
    assert names == {"3D", "frames in 2D"} | ({"product", "time in 2D"} if arch == "r50" else set())
