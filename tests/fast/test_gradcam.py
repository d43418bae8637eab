"""Grad-CAM against finite differences and the closed form of a linear head; motion agreement against planted maps."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.errors import ConfigError
from modist_fast.gradcam import grad_cam, resize_cam, with_output_stride
from modist_fast.gradcam.agreement import bootstrap, motion_agreement, moving_region
from modist_fast.models import ResNet, build_visual


class PlainFeatures(nn.Module):
    """A differentiable net whose feature map is known: the clip itself, through fixed weights, in float64."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def feature_map(self, clips: Tensor) -> Tensor:
        return self.maps


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(2, 5, 2, 3, 4, generator=torch.Generator().manual_seed(0))


def test_with_a_linear_head_the_weights_are_those_of_the_class(maps: Tensor) -> None:
    head = nn.Linear(5, 3)
    classes = torch.tensor([2, 0])
    cam = grad_cam(PlainFeatures(maps), head, maps, classes)  # pyright: ignore[reportArgumentType]
    places = maps[0, 0].numel()
    expected = np.zeros((2, 2, 3, 4))
    weights, features = head.weight.detach().double().numpy(), maps.double().numpy()
    for sample, t, y, x in itertools.product(*map(range, expected.shape)):
        of_class = weights[int(classes[sample])]
        expected[sample, t, y, x] = max(0.0, float((of_class * features[sample, :, t, y, x]).sum()) / places)
    assert 0 < (expected == 0).mean() < 1, "both signs, or the cut is not tested"
    np.testing.assert_allclose(cam.numpy(), expected, rtol=1e-5, atol=1e-8)


def test_with_any_head_the_weights_are_finite_differences(maps: Tensor) -> None:
    torch.manual_seed(1)
    head = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    classes = torch.tensor([1, 1])
    cam = grad_cam(PlainFeatures(maps), head, maps, classes)  # pyright: ignore[reportArgumentType]
    exact, features = head.double(), maps.double()
    gradient, step = torch.zeros_like(features), 1e-5
    for index in itertools.product(*map(range, features.shape)):
        scores = []
        for sign in (1, -1):
            moved = features.clone()
            moved[index] += sign * step
            scores.append(float(exact(moved.mean(dim=(2, 3, 4))).detach()[index[0], classes[index[0]]]))
        gradient[index] = (scores[0] - scores[1]) / (2 * step)
    expected = (gradient.mean(dim=(2, 3, 4), keepdim=True) * features).sum(dim=1).clamp(min=0)
    torch.testing.assert_close(cam.double(), expected, rtol=1e-4, atol=1e-7)


def small_net(arch: str) -> ResNet:
    """A net in eval mode in which every layer does something: norms are drawn, so no branch is zero."""
    torch.manual_seed(0)
    net = build_visual(arch, width=4).double().eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return net


@pytest.mark.parametrize("arch", ["r18", "r50"])
@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("side", [64, 56, 75])
def test_a_finer_output_stride_adds_places_and_moves_none(arch: str, stride: int, side: int) -> None:
    net = small_net(arch)
    clips = torch.randn(1, 3, 4, side, side + 9, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = net.feature_map(clips), with_output_stride(net, stride).feature_map(clips)
    factor = 32 // stride
    assert fine.shape[-1] >= 2 * coarse.shape[-1] - 1
    torch.testing.assert_close(fine[..., ::factor, ::factor], coarse, rtol=1e-9, atol=1e-9)


def test_an_output_stride_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ConfigError, match="--output-stride 4"):
        with_output_stride(small_net("r18"), 4)


def test_resizing_keeps_what_is_where() -> None:
    cam = torch.zeros(1, 2, 4, 4)
    cam[0, 1, 0, 3] = 1.0
    resized = resize_cam(cam, (8, 32, 32))
    assert float(resized.min()) == 0.0
    assert float(resized[0, 4:, :12, 20:].sum() / resized.sum()) > 0.85


def planted(side: int = 48, frames: int = 6) -> tuple[Tensor, Tensor]:
    """Edges of a square that wanders to the right, outlined, over noise; and the square itself."""
    edges = 0.05 * torch.rand(frames, side, side, generator=torch.Generator().manual_seed(0))
    square = torch.zeros(frames, side, side, dtype=torch.bool)
    for t in range(frames):
        y, x, size = 10, 4 + 4 * t, 12
        square[t, y : y + size, x : x + size] = True
        edges[t, y : y + size, x : x + size] = 1.0
        edges[t, y + 2 : y + size - 2, x + 2 : x + size - 2] = 0.02
    return edges, square


def test_the_moving_region_is_the_outlined_thing_filled() -> None:
    edges, square = planted()
    region = moving_region(edges)
    near = F.max_pool2d(square[:, None].float(), 7, stride=1, padding=3)[:, 0] > 0  # the square and its smoothing
    assert region[square].float().mean() > 0.9
    assert not (region & ~near).any()
    assert torch.equal(region, moving_region(32 * edges)), "the unit of the maps must not matter"
    assert not moving_region(torch.full((3, 16, 16), 0.4)).any()


def test_agreement_is_one_on_what_moves_and_the_area_where_the_map_is_even() -> None:
    edges, square = planted()
    elsewhere = square.flip(2)  # wanders on the other side
    cams = torch.stack([square.float(), torch.ones_like(edges), elsewhere.float(), torch.zeros_like(edges)])
    regions = torch.stack([square] * 4)
    inside, area, _ = motion_agreement(cams, regions)
    share = float(square.double().mean())
    np.testing.assert_allclose(area, share)
    np.testing.assert_allclose(inside[:2], [1.0, share])
    assert inside[2] == pytest.approx(float((square & elsewhere).double().sum() / elsewhere.double().sum()))
    assert np.isnan(inside[3]), "a map of zeros agrees with nothing"


def test_elsewhere_is_the_mean_over_the_other_clips() -> None:
    random = torch.Generator().manual_seed(3)
    cams = torch.rand(4, 2, 5, 5, generator=random)
    regions = torch.rand(4, 2, 5, 5, generator=random) < torch.tensor([0.2, 0.4, 0.6, -1.0]).view(4, 1, 1, 1)
    result = motion_agreement(cams, regions)
    moving = [0, 1, 2]  # nothing moves in the last
    for i in moving:
        shares = [float((cams[i].double() * regions[j]).sum() / cams[i].double().sum()) for j in moving]
        assert result.inside[i] == pytest.approx(shares[i])
        assert result.elsewhere[i] == pytest.approx(sum(shares[j] for j in moving if j != i) / 2)
    assert np.isnan(result.inside[3])


def test_the_bootstrap_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.1, 400)
    mean, low, high = bootstrap(np.concatenate([values, [np.nan]]))
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)
