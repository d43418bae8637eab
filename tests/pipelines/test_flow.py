"""Optical flow and the motion inputs made of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_videos import texture
from scipy import ndimage

from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import FramePairs
from modist_pipelines.prepare.flow import DisFlow, RaftFlow, make_flow_estimator
from modist_pipelines.prepare.motion import MotionMaps, motion_scales


def read_flo(path: Path) -> np.ndarray:
    """(H, W, 2) float32 of a Middlebury file."""
    magic, width, height = np.fromfile(path, "<f4", 1)[0], *np.fromfile(path, "<i4", 3)[1:]
    assert magic == np.float32(202021.25)
    return np.fromfile(path, "<f4", offset=12).reshape(height, width, 2)


PAIRS = {"RubberWhale": 1.26, "Dimetrodon": 2.06, "Venus": 3.80, "Grove2": 3.09}


@pytest.mark.parametrize("name", PAIRS)
def test_dis_against_true_flow(shared_data, name):
    folder = next(path for path in (shared_data / "flow_gt").iterdir() if name in path.name)
    truth = read_flo(next(folder.glob("*.flo")))
    first, second = (cv2.imread(str(path)) for path in sorted(folder.glob("*.png")))
    assert first is not None
    assert second is not None
    (flow,) = DisFlow()([first], [second])
    known = np.abs(truth).max(axis=-1) < 1e9
    error = np.linalg.norm(flow - truth, axis=-1)[known].mean()
    zero_error = np.linalg.norm(truth, axis=-1)[known].mean()
    assert zero_error == pytest.approx(PAIRS[name], abs=0.05)  # the truth is read as others read it
    assert error < 0.2 * zero_error


def shifted(pixels: int, side: int = 96) -> np.ndarray:
    picture = np.roll(texture(side, side), pixels, axis=1).astype(np.uint8)
    return np.repeat(picture[..., None], 3, axis=2)


def test_dis_has_the_sign_and_unit_of_a_shift():
    (flow,) = DisFlow()([shifted(0)], [shifted(3)])
    inner = flow[16:-16, 16:-16]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1)), [3, 0], atol=0.1)


def test_dis_does_not_depend_on_earlier_frames():
    rng = np.random.default_rng(0)
    sizes = [(32, 43), (128, 171), (43, 32), (32, 43), (96, 96), (128, 171), (32, 100), (32, 43)]
    used = DisFlow()
    for height, width in sizes:
        for _ in range(2):
            base = cv2.resize(texture(64, 64, int(rng.integers(1000))), (width, height)).astype(np.uint8)
            first = np.repeat(base[..., None], 3, axis=2)
            second = np.roll(first, 2, axis=1)
            np.testing.assert_array_equal(used([first], [second])[0], DisFlow()([first], [second])[0])


def sobel_edges(flow: np.ndarray, gain: float, border: str, clamp: float) -> np.ndarray:
    """Flow edges by SciPy, float64."""
    magnitude = np.hypot(*np.moveaxis(flow.astype(np.float64), -1, 0))
    mode = {"replicate": "nearest", "zero": "constant"}[border]
    gradients = [ndimage.sobel(magnitude, axis=axis, mode=mode) for axis in (0, 1)]
    return np.minimum(np.hypot(*gradients) * gain, clamp)


def edge_function(flows, *, gain, border, clamp):
    edges = np.stack([sobel_edges(flow, gain, border, clamp) for flow in flows])
    return np.rint(edges / clamp * 255).astype(np.uint8), edges.mean(axis=(1, 2))


def random_flow(height: int = 13, width: int = 17) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=8, size=(height, width, 2)).astype(np.float32)


def motion_maps(*names, clamp: float = 10.0, gain: float = 1.0) -> MotionMaps:
    return MotionMaps(motion_scales(names, clamp), edge_function, gain=gain, border="replicate")


def test_magnitude_map_and_score():
    flow = random_flow()
    gray = np.zeros(flow.shape[:2], np.uint8)
    ((pixels,), score) = motion_maps("magnitude")(FramePairs([gray], [gray], flow[None]))[0]["magnitude"]
    full_scale = motion_scales(["magnitude"], clamp=10.0)["magnitude"].full_scale
    magnitude = np.minimum(np.sqrt((flow.astype(np.float64) ** 2).sum(axis=-1)), full_scale)
    np.testing.assert_allclose(pixels / 255 * full_scale, magnitude, atol=full_scale / 255 / 2 + 1e-4)
    assert score == pytest.approx(10 * magnitude.mean() / full_scale, rel=1e-6)


def test_difference_map_and_score():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, size=(2, 9, 11), dtype=np.uint8)
    ((pixels,), score) = motion_maps("difference")(FramePairs([first], [second]))[0]["difference"]
    expected = np.abs(first.astype(int) - second.astype(int))
    np.testing.assert_array_equal(pixels, expected)
    assert score == pytest.approx(10 * expected.mean() / 255, rel=1e-6)


@pytest.mark.parametrize("clamp", [10.0, 2.5])
def test_edges_get_their_options_and_scores_are_tenths_of_the_full_scale(clamp):
    flow = random_flow() / 10
    gray = np.zeros(flow.shape[:2], np.uint8)
    pairs = FramePairs([gray], [gray], flow[None])
    ((pixels,), score) = motion_maps("edges", clamp=clamp, gain=0.5)(pairs)[0]["edges"]
    expected = sobel_edges(flow, 0.5, "replicate", clamp)
    assert 0 < expected.mean() < clamp
    np.testing.assert_array_equal(pixels, np.rint(expected / clamp * 255))
    assert score == pytest.approx(10 * expected.mean() / clamp)


@pytest.fixture
def no_cached_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.hub.set_dir(tmp_path / "torch" / "hub")
    yield tmp_path / "torch" / "hub" / "checkpoints"
    torch.hub._hub_dir = None


def test_raft_without_weights_says_how_to_get_them(no_cached_weights):
    with pytest.raises(DataError, match=r"Raft_Large_Weights\.C_T_V1.*--raft-weights.*--flow dis"):
        make_flow_estimator("raft-large", None)


def test_raft_with_a_file_that_is_not_its_weights(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"something else")
    with pytest.raises(DataError, match="does not hold torchvision's weights of raft-small"):
        make_flow_estimator("raft-small", tmp_path / "w.pth")


def test_raft_finds_cached_weights_and_agrees_with_torchvision(no_cached_weights):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    model = raft_small(weights=None).eval()
    no_cached_weights.mkdir(parents=True)
    torch.save(model.state_dict(), no_cached_weights / "raft_small_C_T_V1-ad48884c.pth")
    estimator = make_flow_estimator("raft-small", None, "cpu")
    assert isinstance(estimator, RaftFlow)

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, size=(2, 2, 128, 136, 3), dtype=np.uint8)
    flows = estimator(list(first), list(second))
    with torch.no_grad():  # RGB in [-1, 1], as torchvision's own transforms make it
        images = [torch.from_numpy(f[..., ::-1].copy()).permute(0, 3, 1, 2) / 255 * 2 - 1 for f in (first, second)]
        expected = model(*images)[-1].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(np.asarray(flows), expected, rtol=1e-3, atol=1e-3)

    odd = estimator([first[0, :100, :131]], [second[0, :100, :131]])[0]  # smaller than RAFT takes
    assert odd.shape == (100, 131, 2)
    assert np.isfinite(np.asarray(odd)).all()
