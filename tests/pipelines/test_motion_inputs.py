"""The motion inputs: what each entry of the registry has to keep, and two-channel flow."""

import json
import math
from collections.abc import Callable
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

from modist_pipelines import motion_inputs
from modist_pipelines.clips.backends import CpuDecoder, GpuDecoder
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import MOTION_INPUTS, FramePairs, find_motion_input
from modist_pipelines.plan import ClipPlan, ClipSpec, PlanConfig, plan_sample
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.motion import MotionMaps, motion_scales
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import META_NAME, Store, StoreMeta

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


def test_a_real_video_that_goes_right_has_positive_u_from_its_first_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", moving_pictures(40, speed=2, height=96, width=128))
    prepare(PrepareConfig(tmp_path, tmp_path / "s", short_side=96, workers=1, motion_inputs=("flow",)), edges)
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


edges = prepare_parts.opencv_edges


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All inputs there are, of four videos."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed in range(4):
        write_video(folder / f"{seed}.mp4", moving_pictures(60, speed=1 + seed, height=48, width=64, seed=seed))
    names = tuple(MOTION_INPUTS)
    prepare(PrepareConfig(folder, folder / "store", short_side=48, workers=1, motion_inputs=names), edges)
    return Store.open(folder / "store")


@pytest.fixture(scope="module")
def clips(store: Store) -> dict[str, np.ndarray]:
    """Of each input, the motion queries of one step."""
    found = {}
    for name in MOTION_INPUTS:
        loader = ClipLoader(store, replace(CONFIG, motion_input=name), batch_size=4, seed=0)
        (batch,) = loader.iterate(0, 1)
        loader.close()
        assert batch.motion_query is not None
        assert not batch.damaged.any()
        found[name] = batch.motion_query.numpy()
    return found


@pytest.mark.parametrize("name", MOTION_INPUTS)
def test_an_input_keeps_what_its_entry_says(name: str, store: Store, clips: dict[str, np.ndarray]) -> None:
    motion, shares = MOTION_INPUTS[name], clips[name]
    store.check_motion(name)
    assert shares.shape == (4, motion.channels, 3, 24, 24)
    low = -1 if motion.signed else 0
    assert low <= shares.min() <= 0 + 0.1
    assert shares.max() <= 1
    assert (shares.min() < -0.05) == motion.signed
    strength = motion.strength(shares[0])
    assert strength.shape == (3, 24, 24)
    assert strength.min() >= 0
    picture = motion.to_rgb(shares[0])
    assert picture.shape == (3, 3, 24, 24)
    assert 0 <= picture.min() < picture.max() <= 1
    # What the score says of the frames, their pixels say too; JPEG and clamp are between the two.
    jpegs = store.read_frames(0, name, range(int(store.num_frames[0])))
    pixels = np.stack([gray(one) for one in jpegs]).astype(float)
    values = (pixels - motion.zero) * motion.factors(flip=False)[0]
    by_frame = motion.strength(values.reshape(-1, motion.channels, *pixels.shape[1:]).swapaxes(0, 1)).mean(axis=(1, 2))
    np.testing.assert_allclose(10 * by_frame, store.scores(0, name), rtol=0.05, atol=0.1)


def test_two_inputs_give_different_clips(clips: dict[str, np.ndarray]) -> None:
    drawn = {name: shares[:, 0] for name, shares in clips.items()}
    for one, first in drawn.items():
        for other, second in drawn.items():
            assert one == other or np.abs(first - second).mean() > 0.01, (one, other)


def test_the_card_says_what_the_levels_are_and_stays_as_it_was_for_the_others(store: Store) -> None:
    card = json.loads((store.path / META_NAME).read_text())["motion_inputs"]
    assert card["flow"] == {"unit": FLOW.unit, "full_scale": 32.0, "zero": 128, "channels": 2}
    assert card["edges"] == {"unit": MOTION_INPUTS["edges"].unit, "full_scale": 10.0}
    assert StoreMeta.from_json((store.path / META_NAME).read_text(), store.path) == store.meta


def test_frames_of_several_channels_are_read_and_counted_as_frames(store: Store) -> None:
    reading = store.read(1, {"flow": [2, 3, 7]})
    assert len(reading.frames["flow"]) == 6
    assert reading.frames_decoded == 3
    by_frame = reading.by_frame("flow", [2, 3, 7])
    for frame, found in zip((7, 2, 7), np.split(np.arange(6), 3), strict=True):
        again = store.read_frames(1, "flow", [7, 2, 7])
        for place, one in zip(found, by_frame[frame], strict=True):
            np.testing.assert_array_equal(again[place], one)
    store.verify()
    with pytest.raises(IndexError, match="of a video of 15 grid frames"):
        store.read(1, {"flow": [15]})


def test_a_store_whose_levels_mean_something_else_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOTION_INPUTS, "flow", replace(FLOW, mirror=(-1, 1, 1)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"holds 'flow' in 2 channel\(s\).*reads 3"):
        store.check_motion("flow")


def test_an_unknown_input_lists_those_there_are(store: Store, tmp_path: Path) -> None:
    asked: list[Callable[[], object]] = [
        lambda: store.check_motion("edge"),
        lambda: ClipLoader(store, replace(CONFIG, motion_input="edge"), batch_size=4, seed=0),
        lambda: PrepareConfig(tmp_path, tmp_path, motion_inputs=("edges", "edge")).check(),
    ]
    for ask in asked:
        with pytest.raises(DataError, match=r"edge: there is no such motion input\. There are: edges, magn"):
            ask()


def test_one_entry_is_all_that_a_new_input_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels of the gray frame itself, from raw videos and from a store."""

    def compute(pairs: FramePairs, full_scale: float) -> motion_inputs.Maps:
        return [(np.stack([frame, 255 - frame, frame // 2]), 1.0) for frame in pairs.grays]

    entry = motion_inputs.MotionInput("gray", "levels", 255.0, compute, needs_flow=False, mirror=(1, 1, 1))
    monkeypatch.setitem(MOTION_INPUTS, "gray", entry)  # type: ignore[arg-type]
    from modist_pipelines.video.raw import RawVideos

    videos = tmp_path / "videos"
    write_video(videos / "0.mp4", moving_pictures(60, speed=1, height=48, width=64))
    encoder = VideoEncoder(
        short_side=48,
        fps=30.0,
        grid=4,
        jpeg_quality=90,
        flow=None,
        motion=MotionMaps(motion_scales(["gray"], 1.0), edges, gain=1.0, border="replicate"),
    )
    kept: list[list[np.ndarray]] = []

    class Sink:
        def append(self, rgb: bytes, motion: object) -> None:
            jpegs, score = motion["gray"]  # type: ignore[index]
            assert score == 1.0
            kept.append([gray(one) for one in jpegs])

    encoder.encode(videos / "0.mp4", Sink())
    raw = RawVideos(videos)
    raw.check_motion("gray")
    loader = ClipLoader(raw, replace(CONFIG, motion_input="gray"), batch_size=1, seed=0)
    (batch,) = loader.iterate(0, 1)
    loader.close()
    assert batch.motion_query is not None
    first, second, third = batch.motion_query[0]
    np.testing.assert_allclose(second, 1 - first, atol=1.01 / 255)
    np.testing.assert_allclose(third, first / 2, atol=1.01 / 255)
    frames = raw.read(0, {"gray": [3]}).frames["gray"]
    for stored, given in zip(kept[3], frames, strict=True):
        assert np.abs(stored.astype(int) - given[..., 0]).mean() < 3
