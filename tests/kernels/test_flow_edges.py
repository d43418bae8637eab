"""flow_edges: its definition against loops and scipy, its CPU path against the definition, real flow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from oracles import edges_oracle

from modist_kernels import flow_edges, flow_edges_reference

BACKENDS = ("reference", "cpu")


def make_flow(size: tuple[int, int], frames: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(frames, 2, *size, generator=generator) * 1.5


def scipy_edges(flow: np.ndarray, gain: float, border: str, clamp: float) -> np.ndarray:
    """P (H, W) float64 of flow (2, H, W)."""
    magnitude = np.sqrt((flow.astype(np.float64) ** 2).sum(0))
    mode = "nearest" if border == "replicate" else "constant"
    across, down = (scipy.ndimage.sobel(magnitude, axis=axis, mode=mode) for axis in (1, 0))
    return np.minimum(gain * np.hypot(across, down), clamp)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", ["replicate", "zero"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2), (9, 13)])
def test_equals_the_loop(size: tuple[int, int], border: str, backend: str) -> None:
    flow = make_flow(size)
    options = {"border": border, "gain": 0.6, "clamp": 7.0, "backend": backend}
    edges, score = flow_edges(flow, out_dtype=torch.float32, **options)
    levels, _ = flow_edges(flow, **options)
    for frame in range(2):
        expected, mean = edges_oracle(flow[frame], 0.6, border, 7.0)
        torch.testing.assert_close(edges[frame].double(), expected, rtol=1e-5, atol=1e-5)
        assert float(score[frame]) == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert (levels[frame].double() - expected / 7 * 255).abs().max() <= 0.501


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int16])
def test_layouts_types_and_scale_mean_the_same_flow(dtype: torch.dtype, backend: str) -> None:
    planes = (make_flow((31, 45)) * 64).round() / 64  # exact in all three types
    scale = 1 / 64 if dtype == torch.int16 else 1.0
    stored = (planes / scale).to(dtype)
    expected, expected_score = flow_edges_reference(planes)
    for layout, flow in (("chw", stored), ("hwc", stored.movedim(1, -1)), ("hwc", stored.movedim(1, -1).contiguous())):
        edges, score = flow_edges(flow, layout=layout, scale=scale, backend=backend)  # pyright: ignore[reportArgumentType]
        assert (edges.int() - expected.int()).abs().max() <= 1
        assert (edges != expected).float().mean() < 0.001  # only what lies at a rounding boundary
        torch.testing.assert_close(score, expected_score, rtol=1e-5, atol=1e-6)


def read_flow(path: Path) -> np.ndarray:
    """(2, H, W) float32, pixels; 0 where unknown."""
    if path.suffix == ".flo":
        data = path.read_bytes()
        width, height = np.frombuffer(data, "<i4", 2, 4)
        flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)
        return np.where(np.abs(flow) > 1e9, 0, flow)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # blue, green, red: known, v, u
    assert image is not None
    known = image[..., 0] != 0
    flow = (image[..., :0:-1].astype(np.float32) - 32768) / 64
    return np.where(known, flow.transpose(2, 0, 1), 0)


@pytest.mark.parametrize("border", ["replicate", "zero"])
def test_real_flow(shared_data: Path, border: str) -> None:
    files = sorted(p for p in (shared_data / "flow_gt").rglob("*") if p.suffix == ".flo" or p.name == "flow_gt.png")
    assert len(files) >= 2
    for path in files:
        flow = np.ascontiguousarray(read_flow(path), dtype=np.float32)
        expected = scipy_edges(flow, 1.0, border, 10.0)
        for layout, tensor in (("chw", torch.from_numpy(flow)), ("hwc", torch.from_numpy(flow).movedim(0, -1))):
            edges, score = flow_edges(tensor, layout=layout, border=border)  # pyright: ignore[reportArgumentType]
            # fp32 differences of large magnitudes (190 px in KITTI) cost a hundredth of a level.
            assert (edges.double() - torch.from_numpy(expected) * 25.5).abs().max() <= 0.52, path
            assert float(score) == pytest.approx(expected.mean(), rel=1e-4), path


def test_gain_of_other_libraries() -> None:
    """kornia's normalized Sobel is an eighth of the plain one, which is OpenCV's."""
    flow = make_flow((20, 30), frames=1)
    magnitude = flow[0].square().sum(0).sqrt().numpy()
    across, down = (
        cv2.Sobel(magnitude, cv2.CV_32F, *d, ksize=3, borderType=cv2.BORDER_REPLICATE) for d in ((1, 0), (0, 1))
    )
    plain, _ = flow_edges(flow[0], clamp=100.0, out_dtype=torch.float32)
    torch.testing.assert_close(plain, torch.from_numpy(np.hypot(across, down)), rtol=1e-4, atol=1e-4)
    eighth, _ = flow_edges(flow[0], clamp=100.0, gain=0.125, out_dtype=torch.float32)
    torch.testing.assert_close(eighth * 8, plain, rtol=1e-4, atol=1e-4)


def test_leading_dimensions_and_no_frames() -> None:
    flow = make_flow((6, 8), frames=6)
    edges, score = flow_edges(flow.reshape(2, 3, 2, 6, 8))
    assert edges.shape == (2, 3, 6, 8)
    assert torch.equal(edges[1, 2], flow_edges(flow[5])[0])
    assert score.shape == (2, 3)
    for backend in BACKENDS:
        assert flow_edges(flow[:0], backend=backend)[0].shape == (0, 6, 8)
        assert flow_edges(flow[0], backend=backend)[1].shape == ()


def test_results_outlive_the_next_call() -> None:
    """The scratch rows that calls share are never handed out."""
    flow = make_flow((16, 20))
    first, _ = flow_edges(flow, out_dtype=torch.float32)
    kept = first.clone()
    flow_edges(flow * 3, out_dtype=torch.float32)
    assert torch.equal(first, kept)


def test_custom_op_is_well_formed_and_compiles() -> None:
    flow = make_flow((9, 7))
    arguments = (flow, "chw", 1.0, "replicate", 10.0, 1.0, torch.uint8, "cpu")
    torch.library.opcheck(torch.ops.modist.flow_edges.default, arguments)
    compiled = torch.compile(lambda x: flow_edges(x)[0].float() / 255, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(flow), flow_edges(flow)[0].float() / 255)


@pytest.mark.parametrize(
    ("flow", "options", "message"),
    [
        (torch.zeros(3, 4, 5), {}, r"must be \(..., 2, H, W\)"),
        (torch.zeros(2, 4, 5), {"layout": "hwc"}, r"must be \(..., H, W, 2\)"),
        (torch.zeros(4, 5), {}, "must be"),
        (torch.zeros(2, 0, 5), {}, "no pixels"),
        (torch.zeros(2, 4, 5, dtype=torch.int32), {}, "float16, float32 or int16"),
        (torch.zeros(2, 4, 5), {"out_dtype": torch.int32}, "out_dtype must be"),
        (torch.zeros(2, 4, 5), {"border": "reflect"}, "border must be"),
        (torch.zeros(2, 4, 5), {"layout": "cwh"}, "layout must be"),
        (torch.zeros(2, 4, 5), {"clamp": 0.0}, "must be positive"),
        (torch.zeros(2, 4, 5), {"gain": -1.0}, "must be positive"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input_is_named(flow: torch.Tensor, options: dict, message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_edges(flow, backend=backend, **options)
