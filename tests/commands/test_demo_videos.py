"""The demo videos: reproducible, real H.264, and of classes that motion tells apart and single frames do not."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from scipy import stats

from modist_fast.demo_videos import FPS, HEIGHT, MOTIONS, NUM_FRAMES, WIDTH, Pose, Scene, make_demo_videos
from modist_fast.errors import ConfigError
from modist_pipelines.video.write import write_video

pytestmark = pytest.mark.slow

CLASSES = list(MOTIONS)
CHANCE = 1 / len(CLASSES)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("videos")
    assert make_demo_videos(out, num_videos=16, seed=3, workers=2) == 16
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_seed_decides_every_pixel():
    for index in (0, 7):
        frame = Scene(5, index).draw(30)
        assert np.array_equal(Scene(5, index).draw(30), frame)
        assert not np.array_equal(Scene(6, index).draw(30), frame)
        assert not np.array_equal(Scene(5, index + 8).draw(30), frame)
        assert not np.array_equal(Scene(5, index).draw(31), frame)


def test_classes_are_balanced(made):
    paths = sorted(made.rglob("*.mp4"))
    assert {name: len(list((made / name).iterdir())) for name in CLASSES} == dict.fromkeys(CLASSES, 2)
    for path in paths:
        assert Scene(3, int(path.stem)).motion == path.parent.name


def test_files_are_the_same_on_any_number_of_workers(made, tmp_path):
    make_demo_videos(tmp_path, num_videos=4, seed=3, workers=1)
    again, before = contents(tmp_path), contents(made)
    assert len(again) == 4
    assert all(before[name] == data for name, data in again.items())


def test_second_call_makes_only_what_is_missing(made):
    before = contents(made)
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")}
    assert make_demo_videos(made, num_videos=16, seed=3, workers=1) == 0
    gone = next(made.rglob("*.mp4"))
    gone.unlink()
    assert make_demo_videos(made, num_videos=16, seed=3, workers=1) == 1
    assert contents(made) == before
    assert {path: path.stat().st_mtime_ns for path in times if path != gone} == {
        path: time for path, time in times.items() if path != gone
    }


@pytest.mark.parametrize("index", [3, 13])
def test_files_hold_the_drawn_frames_as_h264(made, index):
    scene = Scene(3, index)
    with av.open(str(made / scene.motion / f"{index:04d}.mp4")) as container:
        stream = container.streams.video[0]
        assert "mp4" in container.format.name
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, FPS)
        decoded = list(container.decode(stream))
    assert len(decoded) == NUM_FRAMES
    assert [frame.time for frame in decoded] == pytest.approx([number / FPS for number in range(NUM_FRAMES)], abs=1e-3)
    for number in range(0, NUM_FRAMES, 17):
        # Colour is stored at half the resolution: luma is what a codec error can be read from.
        drawn = cv2.cvtColor(scene.draw(number), cv2.COLOR_RGB2GRAY).astype(float)
        shown = cv2.cvtColor(decoded[number].to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY).astype(float)
        assert 20 * np.log10(255 / np.sqrt(np.mean((drawn - shown) ** 2))) > 27, number  # dB
        other = cv2.cvtColor(scene.draw(number + 8), cv2.COLOR_RGB2GRAY).astype(float)
        assert np.mean((drawn - shown) ** 2) < np.mean((other - shown) ** 2)


# --- what tells the class ---


def accuracy(
    features: np.ndarray, labels: np.ndarray, *, tested: np.ndarray | None = None, ridge: float = 30.0
) -> float:
    """Five-fold cross-validated share of right guesses of a ridge classifier; tested on `tested` if that is given."""
    mean, scale = features.mean(0), features.std(0) + 1e-9
    rows = np.c_[(features - mean) / scale, np.ones(len(features))]
    others = rows if tested is None else np.c_[(tested - mean) / scale, np.ones(len(features))]
    targets, folds = np.eye(len(CLASSES))[labels], np.arange(len(labels)) // len(CLASSES) % 5
    right = 0
    for fold in range(5):
        train, test = folds != fold, folds == fold
        gram = rows[train].T @ rows[train] + ridge * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows[train].T @ targets[train])
        right += int(((others[test] @ weights).argmax(1) == labels[test]).sum())
    return right / len(labels)


def most_by_luck(count: int) -> float:
    """The share of right guesses that guessing exceeds once in ten thousand times."""
    return float(stats.binom.isf(1e-4, count, CHANCE)) / count


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two samples may well be of one distribution (Kolmogorov and Smirnov)."""
    result: Any = stats.ks_2samp(first, second)
    return bool(result.pvalue > 1e-4)


def look_of(frame: np.ndarray) -> np.ndarray:
    """A tiny gray picture, and histograms of gradient directions in a 6×4 grid."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    tiny = cv2.resize(gray, (12, 9), interpolation=cv2.INTER_AREA).ravel() / 255
    dx, dy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    bins = (np.arctan2(dy, dx) % np.pi / np.pi * 6).astype(int) % 6
    cells = [cv2.resize(np.hypot(dx, dy) * (bins == k), (6, 4), interpolation=cv2.INTER_AREA) for k in range(6)]
    return np.concatenate([tiny, np.sqrt(np.ravel(cells))])


@cache
def scenes(count: int) -> list[Scene]:
    return [Scene(11, index) for index in range(count)]


def labels_of(count: int) -> np.ndarray:
    return np.arange(count) % len(CLASSES)


def test_single_frame_does_not_tell_the_class():
    count = 480
    looks = np.stack([look_of(scene.draw(17 * index % NUM_FRAMES)) for index, scene in enumerate(scenes(count))])
    share = accuracy(looks, labels_of(count), ridge=300.0)
    assert share < most_by_luck(count), share
    # The same classifier on the same features sees what is there: that half of the videos lack half of their objects.
    fewer = np.array([index // len(CLASSES) % 2 for index in range(count)])
    for index in np.flatnonzero(fewer).tolist():
        scene = Scene(11, index)
        scene.objects = scene.objects[: len(scene.objects) // 2]
        looks[index] = look_of(scene.draw(17 * index % NUM_FRAMES))
    assert accuracy(looks, fewer, ridge=300.0) > 0.6


def test_poses_at_one_moment_are_distributed_alike_in_all_classes():
    """Even one who saw place, size and angle exactly, at any moment, would have to guess."""
    count = 480

    def poses(seconds: float) -> np.ndarray:
        them = [scene.objects[0].pose(seconds) for scene in scenes(count)]
        return np.array([[p.dx, p.dy, abs(p.dx), abs(p.dy), p.scale, p.angle % (2 * np.pi)] for p in them])

    reference = poses(0.0)
    later = poses(2.9)
    for label, name in enumerate(CLASSES):
        for column, what in enumerate(("dx", "dy", "distance in x", "distance in y", "scale", "angle")):
            sample, others = later[labels_of(count) == label, column], reference[labels_of(count) != label, column]
            assert alike(sample, others), (name, what)


def motion_of(frames: list[np.ndarray]) -> np.ndarray:
    """Statistics over time of dense flow in the moving part of the picture; the same for a mirrored video."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    half = (WIDTH // 2, HEIGHT // 2)
    grays = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), half, interpolation=cv2.INTER_AREA) for f in frames]
    rows = []
    y, x = np.mgrid[: half[1], : half[0]].astype(np.float32)
    for first, second in pairwise(grays):
        flow = 2 * dis.calc(first, second, None)  # type: ignore[arg-type]
        flow = flow - np.median(flow.reshape(-1, 2), axis=0)  # the background drifts
        weight = np.hypot(*np.moveaxis(flow, 2, 0)).clip(0, 4) - 0.5
        weight = weight.clip(0)
        total = weight.sum() + 1e-3
        u, v = (weight * flow[..., 0]).sum() / total, (weight * flow[..., 1]).sum() / total
        cx, cy = x - (weight * x).sum() / total, y - (weight * y).sum() / total
        radius = (weight * (cx**2 + cy**2)).sum() / total + 1.0
        spread = (weight * (cx * flow[..., 0] + cy * flow[..., 1])).sum() / total / np.sqrt(radius)
        turn = (weight * (cx * flow[..., 1] - cy * flow[..., 0])).sum() / total / np.sqrt(radius)
        rows.append((u, v, spread, turn, np.log(total)))
    u, v, spread, turn, amount = np.array(rows).T
    speed = np.hypot(u, v) + 1e-3
    lags = (2, 4, 6)
    return np.array(
        [
            *(np.log(np.std(part) + 0.05) for part in (u, v, spread, turn, amount, speed)),
            np.log(abs(np.mean(turn)) + 0.05),
            np.log(np.mean(abs(spread)) + 0.05),
            np.log(np.mean(abs(turn)) + 0.05),
            np.log(np.mean(speed)),
            np.log((np.std(u) + 0.1) / (np.std(v) + 0.1)),
            abs(np.log((np.std(u) + 0.1) / (np.std(v) + 0.1))),
            abs(np.mean(u * v)) / (np.std(u) * np.std(v) + 0.05),
            np.log(np.median(speed) + 0.05) - np.log(np.mean(speed)),
            np.mean(v**3) / (np.mean(v**2) + 0.05) ** 1.5,
            *(abs(np.mean(u[k:] * v[:-k] - v[k:] * u[:-k])) / (np.mean(speed**2) + 0.05) for k in lags),
        ]
    )


@cache
def clips(count: int) -> list[list[np.ndarray]]:
    return [[scene.draw(number) for number in range(0, NUM_FRAMES, 4)] for scene in scenes(count)]


def test_motion_tells_the_class_and_in_a_mirror_as_well():
    count = 96
    labels = labels_of(count)
    motions = np.stack([motion_of(clip) for clip in clips(count)])
    share = accuracy(motions, labels)
    assert share > 0.5, share
    mirrored = np.stack([motion_of([np.ascontiguousarray(frame[:, ::-1]) for frame in clip]) for clip in clips(count)])
    in_mirror = accuracy(motions, labels, tested=mirrored)
    assert in_mirror > share - 0.1, (share, in_mirror)


def test_every_motion_is_as_likely_as_its_mirror_image():
    """The paths themselves: signed measures of a path change sign in a mirror, and are distributed about zero."""
    for index, name in enumerate(CLASSES):
        measures = []
        for scene in scenes(480)[index :: len(CLASSES)]:
            thing = scene.objects[0]
            path: list[Pose] = [thing.pose(seconds) for seconds in np.arange(0, 4, 0.2)]
            dx, dy = np.diff([p.dx for p in path]), np.diff([p.dy for p in path])
            turning, slant = np.mean(dx[1:] * dy[:-1] - dy[1:] * dx[:-1]), np.mean(dx * dy)
            measures.append(
                (np.mean(dx), turning, slant, path[-1].angle - path[0].angle, np.mean([p.dx for p in path]))
            )
        for column, what in zip(np.array(measures).T, ("drift", "turning", "slant", "spin", "place"), strict=True):
            if np.ptp(column) > 1e-9:
                assert alike(column, -column), (name, what)


def test_another_seed_does_not_pass_for_this_one(made):
    with pytest.raises(ConfigError, match=r"of seed 3, not of --seed 4"):
        make_demo_videos(made, num_videos=16, seed=4, workers=1)


def test_file_is_written_under_the_name_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("12:30:05.mp4"), np.zeros((3, 32, 48, 3), np.uint8), FPS)
    with av.open(str(tmp_path / "12:30:05.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3


def test_no_videos_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="--num-videos 0"):
        make_demo_videos(tmp_path, num_videos=0, seed=0, workers=1)
