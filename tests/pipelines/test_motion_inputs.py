"""The registry of motion inputs: every entry keeps what it says, from the store to the clip; one is all it takes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import prepare_parts
import pytest
from made_videos import moving_pictures, write_video

from modist_pipelines import motion_inputs
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import MOTION_INPUTS, FramePairs, find_motion_input
from modist_pipelines.plan import ClipSpec, PlanConfig
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.motion import MotionMaps, motion_scales
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import META_NAME, Store, StoreMeta

pytestmark = pytest.mark.slow

FLOW = find_motion_input("flow")
CONFIG = PlanConfig(ClipSpec(2, 4), ClipSpec(3, 4), 24, grid=4, motion_threshold=0.0, motion_input="flow")
edges = prepare_parts.opencv_edges


def gray(encoded: np.ndarray | bytes) -> np.ndarray:
    """(H, W) uint8 of a JPEG."""
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return pixels


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


PAGE = Path(__file__).resolve().parents[2] / "docs" / "motion-inputs.md"


def test_the_page_lists_every_input_with_its_channels() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == [(name, str(motion.channels)) for name, motion in MOTION_INPUTS.items()]


def test_the_example_of_the_page_is_an_entry_that_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    *function, entry = code.strip().split("\n\n\n")
    space = dict(vars(motion_inputs))
    exec("\n".join(function), space)
    motion = eval(entry, space)
    first, second = np.random.default_rng(0).integers(0, 256, (2, 9, 11), dtype=np.uint8)
    ((maps, score),) = motion.compute(FramePairs([first], [second]), motion.full_scale)
    assert maps.shape == (motion.channels, 9, 11)
    assert score == pytest.approx(10 * maps.mean() / 255)
