"""Grad-CAM against finite differences and the closed form of a linear head; motion agreement against planted maps."""

import itertools
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.demo_videos import FPS, HEIGHT, WIDTH
from modist_fast.errors import ConfigError
from modist_fast.evaluation.data.views import ViewsConfig, resolve_views
from modist_fast.gradcam.agreement import motion_agreement, moving_region
from modist_fast.gradcam.cam import grad_cam, resize_cam
from modist_fast.gradcam.paired import PairedClips
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import ResNet, visual_resnet
from modist_pipelines.store.reader import Store
from modist_pipelines.video.write import write_video
from tests.commands.launching import run_script

pytestmark = pytest.mark.slow


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
    with torch.no_grad():  # some features speak for a class and some against it, as the assertion below asks
        head.weight *= torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]) * head.weight.sign()
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
    net = visual_resnet(arch, width=4).double().eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, GroupBatchNorm):
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
        coarse, fine = net.feature_map(clips), net.with_output_stride(stride).feature_map(clips)
    factor = 32 // stride
    assert fine.shape[-1] >= 2 * coarse.shape[-1] - 1
    torch.testing.assert_close(fine[..., ::factor, ::factor], coarse, rtol=1e-9, atol=1e-9)


def test_an_output_stride_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ConfigError, match="--output-stride 4"):
        small_net("r18").with_output_stride(4)


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
    # The square, and as far as the smoothing goes: three pixels, one frame.
    near = F.max_pool3d(square[None].float(), (3, 7, 7), stride=1, padding=(1, 3, 3))[0] > 0
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


# On videos


def disc_place(video: int, frame: int) -> tuple[float, float]:
    """Where the middle of the disc is, (y, x) in pixels: on a circle of its own."""
    turn = 2 * np.pi * (0.7 * frame / FPS + video / 16)
    return HEIGHT / 2 + 20 * np.sin(turn), WIDTH / 2 + (24 - video) * np.cos(turn)


@pytest.fixture(scope="module")
def disc_clips(tmp_path_factory: pytest.TempPathFactory):
    """A store of videos of one textured disc that circles, and the middle clip of each with the store's row."""
    folder = tmp_path_factory.mktemp("discs")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for video in range(16):
        random = np.random.default_rng(video)
        scene, disc = (cv2.resize(random.uniform(0, 255, (24, 32, 3)), (WIDTH, HEIGHT)) for _ in range(2))
        frames = []
        for frame in range(60):
            top, left = disc_place(video, frame)
            shift = np.array([[1, 0, left - WIDTH / 2], [0, 1, top - HEIGHT / 2]])
            moved = cv2.warpAffine(disc, shift, (WIDTH, HEIGHT))
            frames.append(np.where(np.hypot(y - top, x - left)[..., None] < 16, moved, 0.4 * scene + 70))
        write_video(folder / "videos" / f"{video:02d}.mp4", np.stack(frames).clip(0, 255).astype(np.uint8), FPS)
    done = run_script("prepare.py", folder / "videos", "--out", folder / "store", "--short-side", 72)
    assert done.returncode == 0, done.stderr
    store = Store.open(folder / "store")
    spec = resolve_views(ViewsConfig(spatial=1, num_frames=8, stride=8, crop_size=64, short_side=64), {})
    reader = PairedClips(store, spec)
    plans = [reader.middle(row) for row in range(store.num_videos)]
    clips = list(reader.read(enumerate(plans)))
    reader.close()
    return store, plans, clips


def test_edges_and_frames_show_the_same_pixels(disc_clips) -> None:
    """The disc is where the moving region is."""
    store, plans, clips = disc_clips
    hits, areas = [], []
    for row, (plan, clip) in enumerate(zip(plans, clips, strict=True)):
        region = moving_region(clip.motion)
        areas.append(float(region.float().mean()))
        top, left, side, _ = plan.crop
        scale = store.height[row] / HEIGHT
        for t, frame in enumerate(plan.frames.tolist()):
            y, x = disc_place(int(Path(store.videos[row]).stem), frame * store.grid)
            place = [int(64 * value / side) for value in (y * scale - top, x * scale - left)]
            if all(0 <= value < 64 for value in place):
                hits.append(bool(region[t, place[0], place[1]]))
    assert np.mean(hits) > 2 * np.mean(areas)
    assert np.mean(hits) > 0.5


class Motion(nn.Module):
    """Channel 0 is where pixels change from frame to frame, channel 1 a corner: a net that sees just these."""

    def feature_map(self, clips: Tensor) -> Tensor:
        change = F.pad((clips[:, :, 1:] - clips[:, :, :-1]).abs().mean(dim=1, keepdim=True), (0, 0, 0, 0, 1, 0))
        corner = torch.zeros_like(change)
        corner[..., -16:, -16:] = 1.0
        return F.avg_pool3d(torch.cat([(change - change.mean()).relu(), corner], dim=1), (2, 8, 8))


def test_a_head_that_looks_at_motion_agrees_and_one_that_looks_at_a_corner_does_not(disc_clips) -> None:
    _, _, clips = disc_clips
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    visual, regions = (
        torch.stack([clip.visual for clip in clips]),
        torch.stack([moving_region(c.motion) for c in clips]),
    )
    found = {}
    for name, index in (("motion", 0), ("corner", 1)):
        classes = torch.full((len(clips),), index)
        cam = resize_cam(grad_cam(Motion(), head, visual, classes), (8, 64, 64))  # pyright: ignore[reportArgumentType]
        found[name] = motion_agreement(cam, regions)
    inside, area, elsewhere = found["motion"]
    assert np.nanmean(inside) > 1.5 * np.nanmean(area)
    assert np.nanmean(inside) > np.nanmean(elsewhere) + 0.1
    assert np.nanmean(found["corner"].inside) < np.nanmean(area)
    for other in (2, 3):  # the corner's rows, its columns
        assert int(cam.mean(dim=(0, 1, 5 - other)).argmax()) >= 48


def test_covering_clips_hold_every_frame_once_or_more(demo_store: Path) -> None:
    store = Store.open(demo_store)
    reader = PairedClips(
        store, resolve_views(ViewsConfig(spatial=1, num_frames=4, stride=12, crop_size=32, short_side=32), {})
    )
    plans = reader.covering(0)
    reader.close()
    assert {frame for plan in plans for frame in plan.frames.tolist()} == set(range(int(store.num_frames[0])))
    assert all((np.diff(plan.frames) == 3).all() for plan in plans)


def test_the_command_draws_two_backbones_and_says_how_far_they_agree(demo_store: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for index, video in enumerate(Store.open(demo_store).videos):
        lines.append(f"{video},{Path(video).parent.name},{'test' if index % 4 == 0 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    views = ["--views.num-frames", 4, "--views.stride", 8, "--views.crop-size", 48, "--views.temporal", 1]
    done = run_script(
        "gradcam.py",
        *("--backbone", "random", "--versus", "random", "--arch", "r18", "--width", 8, *views),
        *("--store", demo_store, "--labels", tmp_path / "list.csv", "--out", tmp_path / "out"),
        *("--output-stride", 8, "--num-filmed", 2, "--features.precision", "fp32", "--name", "A", "--versus-name", "B"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "gradcam.json").read_text())
    assert len(result["videos"]) == 8
    for place, part in enumerate(result["backbones"]):
        values = [row["AB"[place]] for row in result["videos"] if row["AB"[place]] is not None]
        assert part["agreement"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert part["agreement"]["clips"] == len(values)
    # One net twice: the figures must not tell them apart.
    assert result["difference"]["mean"] == pytest.approx(0, abs=1e-9)
    assert (tmp_path / "out" / "gradcam.png").read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / "out" / "gradcam.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 2 * int(Store.open(demo_store).num_frames[0])
