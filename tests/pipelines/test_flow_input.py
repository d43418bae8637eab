"""Two-channel flow: signs, levels and direction from the field to the clip, on both decoders; the flip of motion."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import prepare_parts
import pytest
import torch
from clip_store import make_store
from made_videos import moving_pictures, texture, write_video

from modist_pipelines.clips.backends import CpuDecoder, GpuDecoder
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.motion_inputs import FramePairs, find_motion_input
from modist_pipelines.plan import ClipPlan, ClipSpec, PlanConfig, plan_sample
from modist_pipelines.prepare.motion import MotionMaps, motion_scales
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store

FLOW = find_motion_input("flow")
SCALE = FLOW.scale(clamp=10.0)
LEVEL = SCALE.full_scale / 127  # pixels per 5 frames from one stored level to the next
CONFIG = PlanConfig(ClipSpec(2, 4), ClipSpec(3, 4), 24, grid=4, motion_threshold=0.0, motion_input="flow")


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """As a store encodes a channel."""
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel()


def gray(encoded: np.ndarray | bytes) -> np.ndarray:
    """(H, W) uint8 of a JPEG."""
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return pixels


def flow_maps(field: np.ndarray, later: bool = False) -> tuple[np.ndarray, float]:
    still = np.zeros(field.shape[:2], np.uint8)
    maps = MotionMaps(motion_scales(["flow"], 10.0), prepare_parts.opencv_edges, gain=1.0, border="replicate")
    return maps(FramePairs([still], [still], field[None], [later]))[0]["flow"]


def decoded_flow(maps: np.ndarray, plan: ClipPlan, side: int) -> np.ndarray:
    """(2, T, S, S) u and v in pixels, of a clip whose frames all show `maps`, as training reads it."""
    config = replace(CONFIG, crop_size=side, motion=ClipSpec(len(plan.frames), 4))
    decoder = CpuDecoder("motion", config, "jpeg", num_clips=1, num_threads=1)
    clips, blank = decoder.decode([PlannedClip(plan, [jpeg(one) for one in maps] * len(plan.frames))])
    decoder.close()
    assert not blank
    assert clips.tensor.is_contiguous(memory_format=torch.channels_last_3d)
    return clips.tensor[0].numpy() * SCALE.full_scale


def plan(height: int, width: int, **changes) -> ClipPlan:
    return ClipPlan(np.zeros(2, int), (0, 0, height, width))._replace(**changes)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("moved", [(3.0, 0.0), (-7.3, 2.6), (0.2, -11.9), (0.0, 0.0), (31.0, -31.0)])
def test_a_known_translation_comes_back_to_half_a_level(moved: tuple[float, float], later: bool) -> None:
    """Flow leads to the frame before, where things came from; what is stored is where they go."""
    field = np.broadcast_to(np.array(moved, np.float32) * (1 if later else -1), (40, 40, 2)).copy()
    maps, _ = flow_maps(field, later)
    found = decoded_flow(maps, plan(40, 40), 40)
    assert found.shape == (2, 2, 40, 40)
    for axis in (0, 1):
        assert np.abs(found[axis] - moved[axis]).max() <= LEVEL / 2 + 1e-4


@pytest.mark.slow
def test_a_video_that_goes_right_has_positive_u_from_its_first_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", moving_pictures(40, speed=2, height=96, width=128))
    options = PrepareConfig(tmp_path, tmp_path / "s", short_side=96, workers=1, motion_inputs=("flow",))
    prepare(options, prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "s")
    clip = store.read_frames(0, "flow", range(int(store.num_frames[0])))
    planes = np.stack([gray(one) for one in clip]).reshape(-1, 2, 96, 128)
    u, v = ((planes.astype(float) - 128) * LEVEL).transpose(1, 0, 2, 3)
    inside = (slice(None), slice(20, -20), slice(20, -20))
    np.testing.assert_allclose(np.median(u[inside], axis=(1, 2)), 10, atol=0.5)  # 2 pixels a frame, over 5
    np.testing.assert_allclose(np.median(v[inside], axis=(1, 2)), 0, atol=0.5)


def test_beyond_the_full_scale_is_clamped_and_never_wraps() -> None:
    field = np.zeros((16, 16, 2), np.float32)
    field[..., 0], field[..., 1] = 1e4, -1e4
    maps, score = flow_maps(field, later=True)
    assert (maps[0] == 255).all()
    assert (maps[1] == 1).all()
    assert score == pytest.approx(10.0)


def test_the_score_is_the_mean_length_written_as_a_loop() -> None:
    field = np.random.default_rng(0).normal(scale=14, size=(7, 9, 2)).astype(np.float32)
    total = 0.0
    for u, v in field.reshape(-1, 2).astype(float).tolist():
        total += min(math.sqrt(u * u + v * v), SCALE.full_scale)
    expected = 10 * total / (7 * 9) / SCALE.full_scale
    assert flow_maps(field)[1] == pytest.approx(expected, rel=1e-6)
    assert flow_maps(field, later=True)[1] == pytest.approx(expected, rel=1e-6)


def random_maps(height: int = 30, width: int = 40) -> np.ndarray:
    return np.stack([texture(height, width, seed) for seed in range(2)]).astype(np.uint8)


def test_a_flip_mirrors_the_clip_and_negates_u_alone() -> None:
    straight = decoded_flow(random_maps(), plan(30, 40), 24)
    flipped = decoded_flow(random_maps(), plan(30, 40, flip=True), 24)
    np.testing.assert_allclose(flipped[0], -straight[0][..., ::-1], atol=1e-4)
    np.testing.assert_allclose(flipped[1], straight[1][..., ::-1], atol=1e-4)
    assert np.abs(straight).max() > 5


def test_no_colour_of_a_plan_touches_motion() -> None:
    coloured = {"brightness": 1.3, "contrast": 0.7, "saturation": 0.2, "gray": True, "blur_sigma": 1.5}
    straight = decoded_flow(random_maps(), plan(30, 40), 24)
    np.testing.assert_array_equal(decoded_flow(random_maps(), plan(30, 40, **coloured), 24), straight)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pixels", ["jpeg", "rgb"])
def test_the_graph_of_a_gpu_computes_the_same(flip: bool, pixels: Literal["jpeg", "rgb"]) -> None:
    """Built for a CPU, with the very code that a GPU's decoder runs around it."""
    frames = [jpeg(one) for maps in (random_maps(), random_maps()[::-1]) for one in maps]
    if pixels == "rgb":
        frames = [gray(frame)[..., None] for frame in frames]
    clip = PlannedClip(plan(24, 24, crop=(3, 5, 24, 28), flip=flip), frames)
    config = replace(CONFIG, motion=ClipSpec(2, 4))
    cpu = CpuDecoder("motion", config, pixels, num_clips=2, num_threads=1)
    expected, _ = cpu.decode([clip, clip])
    cpu.close()
    gpu = GpuDecoder("motion", config, pixels, num_clips=2, num_threads=1, device=torch.device("cpu"))
    found, _ = gpu.decode([clip, clip])
    assert found.tensor.is_contiguous(memory_format=torch.channels_last_3d)
    assert found.tensor.shape == (2, 2, 2, 24, 24)
    np.testing.assert_allclose(found.tensor, expected.tensor, atol=1.01 / 127)  # the CPU's resize gives bytes
    assert found.tensor.abs().max() > 0.2


def test_a_damaged_flow_clip_is_blank_which_is_no_motion() -> None:
    decoder = CpuDecoder("motion", CONFIG, "jpeg", num_clips=1, num_threads=1)
    clips, blank = decoder.decode([PlannedClip(plan(30, 40), None)])
    decoder.close()
    assert blank == {0}
    assert clips.tensor.shape == (1, 2, 3, 24, 24)
    assert not clips.tensor.any()


def test_motion_flip_flips_that_share_of_the_motion_clips_and_moves_no_crop(tmp_path: Path) -> None:
    info = make_store(tmp_path / "s", [40]).info(0)
    config = replace(CONFIG, motion_input="edges")

    def plans(flip: float, kind: str = "motion") -> list[ClipPlan]:
        changed = replace(config, motion_flip=flip)
        return [getattr(plan_sample(changed, 1, epoch, 0, info), f"{kind}_query") for epoch in range(200)]

    never, some, always = plans(0.0), plans(0.3), plans(1.0)
    assert [sum(one.flip for one in each) for each in (never, always)] == [0, 200]
    assert 35 < sum(one.flip for one in some) < 85
    assert [one.crop for one in some] == [one.crop for one in never]
    visual = [[(one.crop, one.flip) for one in plans(flip, "visual")] for flip in (0.0, 1.0)]
    assert visual[0] == visual[1]
