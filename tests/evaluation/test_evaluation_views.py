"""Views against loops written by hand: starts, crops, and the averaged softmax of whole videos in float64."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_store import video_info
from made_videos import moving_pictures, write_video

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import OpenedBackbone
from modist_fast.evaluation.config import FeaturesConfig, LabelledConfig
from modist_fast.evaluation.data.labelled import open_labelled
from modist_fast.evaluation.data.views import ViewsConfig, ViewSpec, plan_training_clip, plan_views, resolve_views
from modist_fast.evaluation.frozen.features import Extraction, extract
from modist_fast.evaluation.frozen.linear import Linear
from modist_fast.evaluation.places import features_at_places
from modist_fast.host.distributed import join_world
from modist_fast.models import build_visual
from modist_pipelines.plan import ClipPlan

CARD = {"num_frames": 4, "stride": 4, "crop_size": 32, "mean": 0.45, "std": 0.225}
CPU = torch.device("cpu")


def spec_of(**options: object) -> ViewSpec:
    return resolve_views(ViewsConfig(**options), CARD)  # type: ignore[arg-type]


def textured_net() -> OpenedBackbone:
    """A small network whose features tell one picture from another."""
    torch.manual_seed(0)
    net = build_visual("r18", 4)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for _ in range(4):
        net(torch.randn(8, 3, 4, 32, 32))
    return OpenedBackbone(net.eval(), CARD, "made")


def whole_video(path: Path) -> np.ndarray:
    """(frames, H, W, 3) uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48)])
def test_ten_by_three_views_are_those_of_a_loop(tmp_path: Path, height: int, width: int) -> None:
    for n in range(2):
        path = tmp_path / "videos" / "ab"[n] / f"{n}.mkv"
        write_video(path, moving_pictures(90 + 7 * n, 3, height, width, seed=n), codec="ffv1")
    backbone, spec = textured_net(), spec_of()
    labelled = open_labelled(LabelledConfig(videos=tmp_path / "videos"), 4, CPU)
    with join_world("cpu") as world:
        plan = Extraction(
            backbone, labelled, spec, lambda v: plan_views(spec, labelled.info(v), 4), "test", labelled.usable()
        )
        features, _ = extract(plan, FeaturesConfig(precision="fp32"), tmp_path / "features", world)
    assert features.shape == (2, 30, 32)
    every = torch.from_numpy(features).double().flatten(0, 1)
    shift, spread = every.mean(dim=0), every.std(dim=0)
    scale = torch.where(spread > 1e-3, 1 / spread, 0.0)  # some channels of a small random network are dead
    weight, bias = 0.4 * torch.randn(32, 3).double(), torch.randn(3).double()
    classifier = Linear(weight, bias, shift, scale, unit=False, classes=np.arange(3))
    net = backbone.net.double()
    for n in range(2):
        frames = whole_video(tmp_path / "videos" / labelled.names[n])
        total, views = np.zeros(3), []
        for t in range(10):
            # 4 frames, 4 apart, on a grid of 4: the last clip ends with the last grid frame.
            last_start = (len(frames) - 1) // 4 - 3
            chosen = [4 * (round(last_start * t / 9) + j) for j in range(4)]
            for s in range(3):
                offset = (0, 16, 32)[s]  # of 80 pixels, 48 are seen
                y, x = (0, offset) if width > height else (offset, 0)
                pixels = torch.from_numpy(frames[chosen, y : y + 48, x : x + 48]).double().permute(0, 3, 1, 2)
                small = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", align_corners=False)
                clip = ((small / 255 - 0.45) / 0.225).permute(1, 0, 2, 3)[None]
                with torch.no_grad():
                    scores = ((net(clip)[0] - shift) * scale) @ weight + bias
                views.append(np.exp(scores.numpy()) / np.exp(scores.numpy()).sum())
                total += views[-1] / 30
        found = classifier.probabilities(features[n], 3)
        np.testing.assert_allclose(found, views, atol=0.02)  # pixels are bytes there
        np.testing.assert_allclose(found.mean(axis=0), total, atol=5e-3)
        assert np.std(views, axis=0).max() > 0.1, "the views are too alike to tell a wrong one"


@pytest.mark.parametrize(
    ("options", "info", "crops"),
    [
        ({"spatial": 1}, (30, 100, 64), {(4, 22, 55, 55)}),  # the short side at 8 / 7 · 32 = 37
        ({"spatial": 1, "short_side": 32}, (30, 100, 64), {(0, 18, 64, 64)}),
        ({"short_side": 64}, (30, 100, 64), {(16, 0, 32, 32), (16, 34, 32, 32), (16, 68, 32, 32)}),
        ({"fit": "squash"}, (30, 100, 64), {(0, 0, 64, 100)}),
        ({"test_crop_size": 64}, (30, 100, 64), {(0, 0, 64, 64), (0, 18, 64, 64), (0, 36, 64, 64)}),
        ({"test_crop_size": 48, "short_side": 64, "spatial": 1}, (30, 100, 64), {(8, 26, 48, 48)}),
        ({"spatial": 1, "single_crop": "left", "short_side": 64}, (30, 100, 64), {(16, 0, 32, 32)}),
        ({"spatial": 1, "single_crop": "left", "short_side": 64}, (30, 64, 100), {(0, 16, 32, 32)}),
        ({}, (30, 64, 64), {(0, 0, 64, 64)}),
    ],
)
def test_crops(options: dict, info: tuple[int, int, int], crops: set) -> None:
    plans = plan_views(spec_of(temporal=2, **options), video_info(*info), 4)
    assert {plan.crop for plan in plans} == crops
    assert all(not plan.flip for plan in plans)


def starts(num_frames: int, temporal: int, rule: str = "ends") -> list[list[int]]:
    plans = plan_views(spec_of(temporal=temporal, spatial=1, temporal_rule=rule), video_info(num_frames), 4)
    return [plan.frames.tolist() for plan in plans]


def test_starts() -> None:
    assert starts(8, 5) == [[s, s + 1, s + 2, s + 3] for s in range(5)]
    assert starts(8, 1) == [[2, 3, 4, 5]]
    assert starts(5, 3) == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert starts(3, 2) == [[0, 1, 2, 2]] * 2  # too short: the last frame repeats
    # The authors' Δ · i / n, Δ = 10 frames: the last clip ends two frames early.
    assert [frames[0] for frames in starts(14, 5, "paper")] == [0, 2, 4, 6, 8]
    assert starts(14, 1, "paper") == starts(14, 1)


@pytest.mark.parametrize(("crop", "test_crop", "places"), [(64, 96, 4), (64, 128, 9), (64, 64, 1)])
def test_places_are_those_of_a_loop(crop: int, test_crop: int, places: int) -> None:
    """Pool each window of the map that a training crop fills, written as loops in float64."""
    options = {"crop_size": crop, "test_crop_size": test_crop, "temporal": 1, "spatial": 1}
    spec = spec_of(**options, pooling="global" if places == 1 else "sliding").at_test()
    net = textured_net().net
    clips = torch.randn(2, 3, 4, spec.crop_size, spec.crop_size)
    with torch.no_grad():
        mapped, found = net.feature_map(clips).double(), features_at_places(net, clips, spec.window)
    side = crop // 32
    tops = range(test_crop // 32 - side + 1)
    expected = [mapped[:, :, :, y : y + side, x : x + side].mean(dim=(2, 3, 4)) for y in tops for x in tops]
    assert found.shape[1] == places == len(expected)
    torch.testing.assert_close(found.double(), torch.stack(expected, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 3, 4, 16, 37])
def test_segments_are_pyslowfasts(num_frames: int) -> None:
    """Its loop: segment i is from round(i · s) to round((i + 1) · s), with s = (length - 1) / frames."""
    spec = spec_of(sampling="segments", num_frames=8, temporal=10, spatial=1)
    info = video_info(num_frames)
    size = (num_frames - 1) / 8
    bounds = [(int(np.round(size * i)), int(np.round(size * (i + 1)))) for i in range(8)]
    (plan,) = plan_views(spec, info, 4)
    assert plan.frames.tolist() == [(first + last) // 2 for first, last in bounds]
    drawn = [plan_training_clip(spec, info, 4, seed=0, epoch=epoch, video=0).frames for epoch in range(200)]
    for place, (first, last) in enumerate(bounds):
        assert {int(frames[place]) for frames in drawn} == set(range(first, last + 1))


def test_training_clips_cover_what_the_recipe_says() -> None:
    spec, info = spec_of(), video_info(9, 150, 100)

    def draw(epoch: int, flip: float = 0.5) -> ClipPlan:
        return plan_training_clip(spec, info, 4, seed=1, epoch=epoch, video=3, flip=flip)

    plans = [draw(epoch) for epoch in range(600)]
    assert {tuple(plan.frames) for plan in plans} == {(s, s + 1, s + 2, s + 3) for s in range(6)}
    sides = np.array([plan.crop[2] for plan in plans])
    assert all(plan.crop[2] == plan.crop[3] for plan in plans)
    # Scaled to 8/7 … 10/7 of the crop, which then is 7/8 … 7/10 of the short side.
    assert (sides.min(), sides.max()) == (70, 87)
    assert all(0 <= y <= 100 - h and 0 <= x <= 150 - w for y, x, h, w in (plan.crop for plan in plans))
    assert max(plan.crop[1] + plan.crop[3] for plan in plans) == 150
    assert max(plan.crop[0] + plan.crop[2] for plan in plans) == 100
    assert np.mean([plan.flip for plan in plans]) == pytest.approx(0.5, abs=0.07)
    assert not any(draw(epoch, flip=0.0).flip for epoch in range(50))
    again = draw(5)
    assert (again.frames.tolist(), again.crop) == (plans[5].frames.tolist(), plans[5].crop)


@pytest.mark.parametrize(
    ("options", "card", "words"),
    [
        ({}, {"num_frames": 8, "stride": 8}, "--views.crop-size"),
        ({"num_frames": 0}, CARD, "--views.num-frames 0"),
        ({"short_side": 20}, CARD, "less than the crop of 32"),
        ({"temporal": 0}, CARD, "--views.temporal 0"),
        ({}, {**CARD, "mean": [0.4, 0.5, 0.5]}, "only one value for all channels"),
    ],
)
def test_views_that_cannot_be(options: dict, card: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_views(ViewsConfig(**options), card)


def test_a_larger_test_crop_is_seen_at_test_alone() -> None:
    spec = spec_of(test_crop_size=48, pooling="sliding")
    assert (spec.crop_size, spec.window, spec.short_side) == (32, 1.0, 48)
    assert (spec.at_test().crop_size, spec.at_test().window) == (48, 32 / 48)
    assert spec_of(test_crop_size=48).at_test().window == 1.0


def test_options_come_before_the_card() -> None:
    spec = resolve_views(ViewsConfig(num_frames=32, stride=8), {**CARD, "mean": [0.5, 0.5, 0.5]})
    assert (spec.num_frames, spec.stride, spec.crop_size, spec.short_side) == (32, 8, 32, 32)
    assert (spec.mean, spec.std, spec.num_views) == (0.5, 0.225, 30)
