"""The CPU's augmentation against the graph that a GPU runs, and the memory that it hands out."""

import gc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from clip_store import jpeg, picture, run_graph, video_info
from made_videos import texture

from modist_pipelines.clips.augment import augment_frame
from modist_pipelines.clips.backends import ArrayPool, CpuDecoder
from modist_pipelines.clips.graph import color_transforms
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig, plan_sample

CONFIG = PlanConfig(ClipSpec(2, 4), ClipSpec(2, 4), 48, grid=4)
CPU = torch.device("cpu")
GRAY_LEVEL = 1.4 * 1.4 / 255 / 0.225  # after the strongest brightness and contrast


def clips(kind: str, num: int) -> list[PlannedClip]:
    chosen = []
    for video in range(num):
        plan = getattr(plan_sample(CONFIG, 1, 0, video, video_info(9, 100, 72)), f"{kind}_query")
        pixels = picture(72, 100, video) if kind == "visual" else texture(72, 100, video).astype(np.uint8)
        chosen.append(PlannedClip(plan, [jpeg(pixels)] * 2))
    return chosen


@pytest.mark.parametrize(("kind", "taps"), [("visual", 0), ("visual", 3), ("motion", 0)])
def test_equals_the_graph_but_for_the_rounding_of_bytes(kind, taps):
    chosen = clips(kind, 40)
    options = replace(CONFIG.augmentation, blur_window=taps)
    assert kind == "motion" or {clip.plan.blur_sigma > 0 for clip in chosen} == {True, False}
    assert kind == "motion" or {clip.plan.gray for clip in chosen} == {True, False}
    decoder = CpuDecoder(kind, replace(CONFIG, augmentation=options), "jpeg", num_clips=40, num_threads=2)
    found, blank = decoder.decode(chosen)
    decoder.close()
    assert not blank
    frames = [frame for clip in chosen for frame in clip.frames or ()]
    expected = run_graph(kind, frames, [clip.plan for clip in chosen], crop_size=48, options=options)
    difference = np.abs(found.tensor.permute(0, 2, 3, 4, 1).numpy() - expected)
    level = GRAY_LEVEL if kind == "visual" else 1 / 255
    assert difference.max() < 2 * level
    assert difference.mean() < 0.4 * level


def test_colour_is_the_affine_map_of_the_definition():
    """Each pixel by the 3 x 4 matrix, in float64."""
    options = Augmentation()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for gray, saturation in ((False, 1.0), (False, 0.7), (False, 1.4), (True, 1.2)):
        plan = ClipPlan(np.zeros(1, int), (0, 0, 20, 30), False, 1.3, 0.8, saturation, gray)
        out = np.empty((20, 30, 3), np.float32)
        augment_frame(pixels, plan, options, out)
        (matrix,), (offset,) = color_transforms([plan], options)
        expected = pixels.astype(np.float64) @ matrix.T + offset
        np.testing.assert_allclose(out, expected, atol=0.6 * GRAY_LEVEL)  # the gray is a byte
        if saturation == 1.0:
            np.testing.assert_allclose(out, expected, atol=1e-5)


def test_flip_and_crop_of_decoded_frames():
    plan = ClipPlan(np.zeros(2, int), (3, 5, 48, 48), flip=True)
    frame = picture(72, 100, 1)
    decoder = CpuDecoder("visual", CONFIG, "rgb", num_clips=1, num_threads=1)
    found, _ = decoder.decode([PlannedClip(plan, [frame, frame])])
    decoder.close()
    expected = (frame[3:51, 5:53][:, ::-1] / 255 - 0.45) / 0.225
    np.testing.assert_allclose(found.tensor[0, :, 1].permute(1, 2, 0), expected, atol=1e-5)


def test_memory_is_used_again_once_nobody_holds_it_and_not_before():
    pool = ArrayPool()
    tensor = torch.from_numpy(pool.take((4, 8)))
    view = tensor[2]
    address = tensor.data_ptr()
    del tensor
    gc.collect()
    other = torch.from_numpy(pool.take((4, 8)))
    assert other.data_ptr() != address  # the view still shows it
    del view
    gc.collect()
    assert torch.from_numpy(pool.take((2, 16))).data_ptr() == address
    assert pool.take((3, 3)).shape == (3, 3)


def test_opencv_leaves_the_threads_to_the_loader():
    decoder = CpuDecoder("visual", CONFIG, "rgb", num_clips=1, num_threads=1)
    decoder.close()
    assert cv2.getNumThreads() == 1
