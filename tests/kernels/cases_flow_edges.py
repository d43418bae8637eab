"""What the Triton kernel of flow_edges must do; run in the interpreter (test_interpreted.py) and on a GPU."""

import pytest
import torch
from oracles import edges_oracle

from modist_kernels import flow_edges, flow_edges_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = [
    ((1, 1), "chw", torch.float32, "replicate", torch.uint8),
    ((1, 9), "hwc", torch.float32, "zero", torch.uint8),
    ((9, 1), "chw", torch.float16, "zero", torch.float16),
    ((57, 40), "chw", torch.float16, "replicate", torch.uint8),
    ((23, 31), "hwc", torch.int16, "replicate", torch.uint8),
    ((24, 256), "hwc", torch.float16, "zero", torch.float32),
    ((9, 257), "chw", torch.int16, "replicate", torch.uint8),
    ((5, 600), "hwc", torch.float32, "replicate", torch.float16),
]


def make_flow(size: tuple[int, int], layout: str, dtype: torch.dtype, frames: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    flow = torch.randn(frames, 2, *size, generator=generator) * (150 if dtype == torch.int16 else 1.5)
    flow = flow.to(dtype)
    return (flow.movedim(1, -1).contiguous() if layout == "hwc" else flow).to(DEVICE)


@pytest.mark.parametrize(("size", "layout", "dtype", "border", "out_dtype"), CASES)
def test_kernel_equals_the_definition(size, layout, dtype, border, out_dtype) -> None:
    flow = make_flow(size, layout, dtype)
    scale = 1 / 64 if dtype == torch.int16 else 1.0
    options = {"layout": layout, "border": border, "gain": 0.75, "clamp": 8.0}
    edges, score = flow_edges(flow, scale=scale, out_dtype=out_dtype, backend="triton", **options)
    exact, exact_score = flow_edges_reference(flow.double() * scale, out_dtype=torch.float32, **options)
    assert edges.dtype == out_dtype
    torch.testing.assert_close(score.double(), exact_score, rtol=1e-5, atol=1e-6)
    if out_dtype == torch.uint8:
        levels = exact.double() / 8 * 255
        assert (edges.double() - levels).abs().max() <= 0.5 + 1e-3
    else:
        step = torch.finfo(out_dtype).eps * 8
        torch.testing.assert_close(edges.double(), exact.double(), rtol=0, atol=step + 1e-5)


def test_one_frame_equals_the_loop() -> None:
    flow = make_flow((11, 14), "chw", torch.float32, frames=1)
    edges, score = flow_edges(flow, out_dtype=torch.float32, backend="triton")
    expected, expected_score = edges_oracle(flow[0].cpu(), 1.0, "replicate", 10.0)
    torch.testing.assert_close(edges[0].cpu().double(), expected, rtol=1e-5, atol=1e-5)
    assert float(score[0]) == pytest.approx(expected_score, rel=1e-5)


def test_leading_dimensions_and_no_frames() -> None:
    flow = make_flow((6, 8), "chw", torch.float32, frames=6)
    edges, score = flow_edges(flow.reshape(2, 3, 2, 6, 8), backend="triton")
    assert edges.shape == (2, 3, 6, 8)
    assert torch.equal(edges[1, 2], flow_edges(flow[5], backend="triton")[0])
    assert score.shape == (2, 3)
    edges, score = flow_edges(flow[:0], backend="triton")
    assert edges.shape == (0, 6, 8)
    assert score.shape == (0,)


def test_a_row_too_long_is_said() -> None:
    with pytest.raises(ValueError, match="at most 8192 pixels"):
        flow_edges(torch.zeros(2, 2, 8193, device=DEVICE), backend="triton")
