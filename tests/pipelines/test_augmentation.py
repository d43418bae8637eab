"""What the graphs do to pixels, against PIL, torch, SciPy and formulas written one step at a time in float64."""

import io
import math

import numpy as np
import pytest
import torch
from clip_store import jpeg, picture, run_graph, video_info
from made_videos import texture
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as tv

from modist_pipelines.clips.graph import color_transforms
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig, plan_sample

HEIGHT, WIDTH, SIZE = 72, 100, 40
OPTIONS = Augmentation()
MEAN, STD = OPTIONS.mean, OPTIONS.std
LEVEL = 1 / 255 / STD  # one step of a byte after normalization


def luminance(rgb: np.ndarray) -> np.ndarray:
    return (0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2])[..., None]


def resized_crop(encoded: np.ndarray, plan: ClipPlan) -> np.ndarray:
    """(SIZE, SIZE, C) float64 in [0, 255]."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded.tobytes())), dtype=np.float64)
    y, x, h, w = map(int, plan.crop)
    pixels = torch.from_numpy(np.atleast_3d(pixels)[y : y + h, x : x + w]).permute(2, 0, 1)[None]
    pixels = interpolate(pixels, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=False)
    return pixels[0].permute(1, 2, 0).numpy()


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    for axis in (0, 1):
        pixels = ndimage.gaussian_filter1d(pixels, sigma, axis, mode="mirror", radius=int(np.ceil(3 * sigma)))
    return pixels


def augmented(encoded: np.ndarray, plan: ClipPlan) -> np.ndarray:
    """The spec's augmentation in the spec's order."""
    x = resized_crop(encoded, plan) / 255
    if plan.flip:
        x = x[:, ::-1]
    x = plan.brightness * x
    x = plan.contrast * x + (1 - plan.contrast) * plan.brightness * MEAN
    x = plan.saturation * x + (1 - plan.saturation) * luminance(x)
    if plan.gray:
        x = np.repeat(luminance(x), 3, axis=2)
    if plan.blur_sigma > 0:
        x = blurred(x, plan.blur_sigma)
    return (x - MEAN) / STD


def clip(crop=(0, 0, HEIGHT, WIDTH), num_frames: int = 1, **changes) -> ClipPlan:
    return ClipPlan(np.arange(num_frames), crop, **changes)


@pytest.mark.parametrize(
    "plan",
    [
        clip(),
        clip((3, 11, 40, 40)),  # a crop that is not resized
        clip((5, 7, 61, 33)),
        clip((HEIGHT - 21, WIDTH - 30, 21, 30)),  # enlarged, in the corner
        clip((5, 7, 61, 33), flip=True),
        clip((0, 1, 40, 41), brightness=1.4),
        clip((0, 1, 40, 41), contrast=0.6),
        clip((0, 1, 40, 41), saturation=1.4),
        clip((0, 1, 40, 41), brightness=0.6, contrast=1.4, saturation=0.7),
        clip((0, 1, 40, 41), saturation=1.3, contrast=1.2, gray=True),
        clip((0, 1, 60, 51), blur_sigma=0.1),
        clip((0, 1, 60, 51), blur_sigma=0.7),
        clip((0, 1, 60, 51), blur_sigma=2.0),
        ClipPlan(np.arange(1), (9, 4, 55, 70), True, 1.3, 0.7, 1.4, True, 1.4),
    ],
)
def test_each_augmentation(plan):
    encoded = jpeg(picture(HEIGHT, WIDTH, 1))
    expected = augmented(encoded, plan)
    ((found,),) = run_graph("visual", [encoded], [plan], crop_size=SIZE)
    np.testing.assert_allclose(found, expected, atol=0.02 * LEVEL)
    # The comparison would notice if the augmentation were left out.
    plain = augmented(encoded, clip(plan.crop))
    if plan[2:] != clip()[2:] and plan.blur_sigma != 0.1:
        assert abs(expected - plain).mean() > LEVEL / 2


def test_planned_clips_of_one_batch():
    """Many plans at once: no clip gets what another was to have, and all frames of a clip get the same."""
    num_clips, num_frames = 24, 3
    config = PlanConfig(ClipSpec(num_frames, 4), ClipSpec(4, 4), SIZE, grid=4)
    info = video_info(9, WIDTH, HEIGHT)
    plans = [plan_sample(config, 5, 0, video, info).visual_query for video in range(num_clips)]
    assert len({(plan.flip, plan.gray, plan.blur_sigma > 0, plan.brightness == 1) for plan in plans}) > 8
    jpegs = [jpeg(picture(HEIGHT, WIDTH, video)) for video in range(num_clips)]
    found = run_graph("visual", [j for j in jpegs for _ in range(num_frames)], plans, crop_size=SIZE)
    assert found.shape == (num_clips, num_frames, SIZE, SIZE, 3)
    for frames, encoded, plan in zip(found, jpegs, plans, strict=True):
        np.testing.assert_allclose(frames[0], augmented(encoded, plan), atol=0.02 * LEVEL)
        for frame in frames[1:]:
            np.testing.assert_array_equal(frame, frames[0])


def test_motion_maps_are_shares_of_full_scale():
    config = PlanConfig(ClipSpec(2, 4), ClipSpec(2, 4), SIZE, grid=4)
    info = video_info(9, WIDTH, HEIGHT)
    plans = [plan_sample(config, 5, 0, video, info).motion_key for video in range(8)]
    plans = [plan for plan in plans if plan is not None]
    maps = [jpeg(texture(HEIGHT, WIDTH, seed).astype(np.uint8)) for seed in range(16)]
    found = run_graph("motion", maps, plans, crop_size=SIZE)
    assert found.shape == (8, 2, SIZE, SIZE, 1)
    assert 0 <= found.min() < 0.2 < 0.8 < found.max() <= 1
    for i, encoded in enumerate(maps):
        expected = resized_crop(encoded, plans[i // 2]) / 255
        np.testing.assert_allclose(found[i // 2, i % 2], expected, atol=0.02 / 255)


def transformed(rgb: np.ndarray, **changes) -> torch.Tensor:
    """(3, H, W) in [0, 1]: the colour map of a plan, its normalization undone."""
    (matrix,), (offset,) = color_transforms([clip(**changes)], OPTIONS)
    return torch.from_numpy((255 * rgb @ matrix.T + offset) * STD + MEAN).permute(2, 0, 1)


@pytest.mark.parametrize("factor", [0.6, 0.95, 1.4])
def test_colours_agree_with_torchvision_where_it_does_not_clip(factor):
    rgb = 0.3 + 0.3 * np.random.default_rng(0).random((20, 30, 3))
    image = torch.from_numpy(rgb).permute(2, 0, 1)
    # torchvision rounds the weights of the luminance to 0.2989, 0.587, 0.114.
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(transformed(rgb, brightness=factor), tv.adjust_brightness(image, factor), **close)
    torch.testing.assert_close(transformed(rgb, saturation=factor), tv.adjust_saturation(image, factor), **close)
    torch.testing.assert_close(transformed(rgb, gray=True), tv.rgb_to_grayscale(image, 3), **close)
    # Its contrast turns about each picture's mean gray: the same where that is the mean of the normalization.
    rgb += MEAN - luminance(rgb).mean()
    image = torch.from_numpy(rgb).permute(2, 0, 1)
    torch.testing.assert_close(transformed(rgb, contrast=factor), tv.adjust_contrast(image, factor), **close)
    both = tv.adjust_contrast(tv.adjust_brightness(image, 1.1), factor)
    torch.testing.assert_close(transformed(rgb, brightness=1.1, contrast=factor), both, **close)


@pytest.mark.parametrize("taps", [0, 3])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_agrees_with_torchvision(sigma, taps):
    options = Augmentation(blur_window=taps)
    encoded = jpeg(picture(SIZE, SIZE, 2))
    whole = clip((0, 0, SIZE, SIZE), blur_sigma=sigma)
    found = torch.from_numpy(run_graph("visual", [encoded], [whole], crop_size=SIZE, options=options)[0, 0]).permute(
        2, 0, 1
    )
    plain = torch.from_numpy(resized_crop(encoded, whole) / 255).permute(2, 0, 1)
    window = taps or 2 * math.ceil(3 * sigma) + 1
    expected = (tv.gaussian_blur(plain, [window, window], [sigma, sigma]) - MEAN) / STD
    torch.testing.assert_close(found, expected.float(), atol=0.02 * LEVEL, rtol=0)
