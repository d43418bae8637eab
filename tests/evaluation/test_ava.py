"""Action detection on AVA: the measure against a loop, the files, where boxes go, the net, and a whole small run."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modist_fast.commands import make_demo_videos
from modist_fast.commands.evaluate import parse
from modist_fast.errors import ConfigError
from modist_fast.evaluation.ava import made_up
from modist_fast.evaluation.ava.annotations import Boxes, read_boxes, read_classes, read_excluded
from modist_fast.evaluation.ava.average_precision import curves, mean_average_precision
from modist_fast.evaluation.ava.command import run_ava
from modist_fast.evaluation.ava.config import AVA_RECIPES, AvaConfig, AvaDataConfig, check_ava
from modist_fast.evaluation.ava.detector import box_features
from modist_fast.evaluation.ava.keyframes import (
    boxes_in_clip,
    clip_frames,
    find_keyframes,
    plan_training_keyframe,
    whole_shape,
)
from modist_fast.evaluation.ava.opening import open_ava
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.evaluation.data.views import ViewsConfig, resolve_views
from modist_fast.evaluation.finetune.schedule import SupervisedOptimConfig, supervised_learning_rate
from modist_fast.host.distributed import join_world
from modist_fast.models.resnet import visual_resnet
from modist_pipelines.plan import ClipPlan
from modist_pipelines.source import VideoInfo
from modist_pipelines.video.frame_lists import FrameLists

# --- the measure ---


def slow_iou(first, second) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = areas[0] + areas[1] - width * height
    return width * height / union if union > 0 else 0.0


def slow_average_precision(truth, detected, action, excluded) -> float | None:
    """A loop over detections by falling score, each taking the true box that it overlaps most; floats alone."""
    num_truth = sum(
        int(boxes.actions[row, action - 1])
        for key, boxes in truth.items()
        if key not in excluded
        for row in range(len(boxes))
    )
    if num_truth == 0:
        return None
    listed = []
    for key, (boxes, table) in detected.items():
        if key not in excluded:
            listed += [(float(table[row, action - 1]), key, boxes[row]) for row in range(len(boxes))]
    listed.sort(key=lambda one: -one[0])  # stable: equal ones keep their order
    taken, points, right = set(), [], 0
    for place, (_, key, box) in enumerate(listed, 1):
        best, best_iou = None, -1.0
        for row in range(len(truth[key]) if key in truth else 0):
            if truth[key].actions[row, action - 1] and (iou := slow_iou(box, truth[key].places[row])) > best_iou:
                best, best_iou = row, iou
        if best is not None and best_iou >= 0.5 and (key, best) not in taken:
            taken.add((key, best))
            right += 1
        points.append((right / num_truth, right / place))
    area, before = 0.0, 0.0
    for recall, _ in points:
        if recall > before:
            area += (recall - before) * max(precision for other, precision in points if other >= recall)
            before = recall
    return area


def random_boxes(random, count: int) -> np.ndarray:
    corner = random.uniform(0, 0.6, (count, 2))
    return np.concatenate([corner, corner + random.uniform(0.05, 0.4, (count, 2))], axis=1)


def random_case(seed: int):
    random = np.random.default_rng(seed)
    num_actions = int(random.integers(1, 6))
    truth, detected = {}, {}
    for number in range(int(random.integers(1, 8))):
        key = ("v", 902 + number)
        places = random_boxes(random, int(random.integers(1, 5)))
        actions = random.random((len(places), num_actions)) < random.uniform(0, 0.6)
        if random.random() < 0.9:
            truth[key] = Boxes(places, actions, np.ones(len(places)))
        if random.random() < 0.9:
            near = np.clip(np.repeat(places, 2, axis=0) + random.normal(0, 0.04, (2 * len(places), 4)), 0, 1)
            boxes = np.concatenate([near, random_boxes(random, 2)])
            boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
            # One decimal: many equal scores.
            detected[key] = boxes, random.random((len(boxes), num_actions)).round(1 if seed % 2 else 9)
    excluded = {("v", 902)} if random.random() < 0.3 else set()
    return truth, detected, range(1, num_actions + 1), excluded


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_mean_average_precision_is_that_of_a_loop(first):
    compared = 0
    for seed in range(first, first + 50):
        truth, detected, actions, excluded = random_case(seed)
        found = curves(truth, detected, actions, excluded)
        slow = {action: slow_average_precision(truth, detected, action, excluded) for action in actions}
        assert set(found) == {action for action, value in slow.items() if value is not None}
        for action, curve in found.items():
            assert curve.average_precision == pytest.approx(slow[action], abs=1e-6), (seed, action)
            compared += 0 < curve.average_precision < 1
        if found:
            expected = np.mean([value for value in slow.values() if value is not None])
            assert mean_average_precision(found) == pytest.approx(expected, abs=1e-6)
    assert compared > 30


ONE = np.array([[0.0, 0.0, 0.5, 0.5]])
KEY, OTHER = ("v", 902), ("v", 903)


def truth_of(*keys):
    return {key: Boxes(ONE, np.array([[True]]), np.ones(1)) for key in keys}


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([ONE[0]], [0.9], 1.0),
        ([ONE[0], ONE[0]], [0.9, 0.8], 1.0),  # the second finds the box taken
        ([[0.6, 0.6, 1, 1], ONE[0]], [0.9, 0.8], 0.5),
        ([[0, 0, 0.5, 0.25]], [0.9], 1.0),  # an IoU of exactly .5 counts
        ([[0, 0, 0.5, 0.24]], [0.9], 0.0),
        ([], [], 0.0),
    ],
)
def test_hand_made_cases(boxes, scores, expected):
    detected = {KEY: (np.array(boxes, float).reshape(-1, 4), np.array(scores, float).reshape(-1, 1))}
    assert curves(truth_of(KEY), detected, [1])[1].average_precision == pytest.approx(expected)


def test_missed_keyframes_cost_and_excluded_ones_do_not():
    detected = {KEY: (ONE, np.array([[0.9]]))}
    assert curves(truth_of(KEY, OTHER), detected, [1])[1].average_precision == 0.5
    assert curves(truth_of(KEY, OTHER), detected, [1], {OTHER})[1].average_precision == 1.0
    wrong_first = {OTHER: (ONE, np.array([[0.95]])), **detected}  # no truth there: wrong
    assert curves(truth_of(KEY), wrong_first, [1])[1].average_precision == 0.5


def test_the_envelope_takes_the_best_precision_at_any_higher_recall():
    keys = [("v", 902 + number) for number in range(3)]
    far = np.array([[0.6, 0.6, 1.0, 1.0]])
    detected = {keys[0]: (far, np.array([[0.9]])), keys[1]: (ONE, np.array([[0.8]])), keys[2]: (ONE, np.array([[0.7]]))}
    # wrong, right, right: precision 0, 1/2, 2/3; recall 0, 1/2, 1 of two boxes. The envelope is 2/3 throughout.
    found = curves(truth_of(*keys[1:]), detected, [1])
    assert found[1].average_precision == pytest.approx(2 / 3)


def test_classes_without_truth_are_not_in_the_mean():
    truth = {KEY: Boxes(ONE, np.array([[True, False]]), np.ones(1))}
    found = curves(truth, {KEY: (ONE, np.array([[0.9, 0.9]]))}, [1, 2])
    assert set(found) == {1}
    assert mean_average_precision(found) == 1.0


# --- the files ---


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_of_one_box_become_one_and_scores_cut(tmp_path):
    truth = write(tmp_path / "t.csv", "v,0902,0.1,0.2,0.3,0.4,7,0\nv,0902,0.1,0.2,0.3,0.4,3,0\nv,902,0,0,1,1,,1\n")
    boxes = read_boxes([truth], 8)[KEY]
    assert boxes.places.tolist() == [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]
    assert [np.flatnonzero(row).tolist() for row in boxes.actions] == [[2, 6], []]
    predicted = write(tmp_path / "p.csv", "v,0902,0,0,1,1,,0.95\nv,0902,0,0,.5,1,,0.89\nw,0902,0,0,.5,1,,0.9\n")
    assert {key: len(found) for key, found in read_boxes([predicted], 8, 0.9).items()} == {KEY: 1, ("w", 902): 1}


@pytest.mark.parametrize(
    ("line", "score", "words"),
    [
        ("v,902,0,0,1", False, "5 columns"),
        ("v,902.5,0,0,1,1,3,0", False, "second '902.5'"),
        ("v,902,0,0,1.5,1,3,0", False, "the box"),
        ("v,902,0.5,0,0.4,1,3,0", False, "the box"),
        ("v,902,0,0,x,1,3,0", False, "the box"),
        ("v,902,0,0,nan,1,3,0", False, "the box"),
        ("v,902,0,0,1,1,9,0", False, "action '9'"),
        ("v,902,0,0,1,1,0,0", False, "action '0'"),
        ("v,902,0,0,1,1,,1.2", True, "score '1.2'"),
        ("v,902,0,0,1,1,", True, "7 columns"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, score, words):
    path = write(tmp_path / "bad.csv", f"v,902,0,0,1,1,1,1\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"bad\.csv, line 3") as error:
        read_boxes([path], 8, 0.9 if score else None)
    assert words in str(error.value)


def test_classes_in_both_forms_and_their_mistakes(tmp_path):
    path = write(tmp_path / "c.pbtxt", 'item {\n  name: "walk"\n  id: 14\n}\nitem { id: 3 name: "bend" }\n')
    assert read_classes(path, 80) == {3: "bend", 14: "walk"}
    assert read_classes(write(path, 'label {\n name: "a"\n label_id: 1\n label_type: X\n}'), 80) == {1: "a"}
    for text, words in [
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', r"line 2: id 1"),
        ('item { name: "a" id: 81 }', r"line 1: id 81"),
        ("item { id: 4 }", r"line 1: an item needs"),
        ("nothing", "names no class"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_classes(write(path, text), 80)


def test_excluded_keyframes(tmp_path):
    assert read_excluded([write(tmp_path / "e.csv", "v,0902\nw,1000\n")]) == {KEY, ("w", 1000)}
    with pytest.raises(ConfigError, match=r"e\.csv, line 1"):
        read_excluded([write(tmp_path / "e.csv", "v\n")])


# --- keyframes ---


class Source:
    """As much of a source as finding keyframes takes."""

    def __init__(self, fps=30.0, grid=1, num_frames=27_000) -> None:
        self.fps, self.grid, self.path, self.videos = fps, grid, Path("somewhere"), ["a/v.mp4", "w.mkv"]
        self._num_frames = num_frames

    def info(self, video: int) -> VideoInfo:
        return VideoInfo(self._num_frames, 40, 30)


SPEC = resolve_views(ViewsConfig(temporal=1, spatial=1, num_frames=8, stride=8, crop_size=224), {})


def test_a_clip_is_about_its_keyframe():
    boxes = truth_of(("v", 902), ("w", 1798), ("v", 901), ("w", 1799), ("x", 950))
    found = find_keyframes(Source(), boxes, 900, {"x.mp4": "it is broken"})  # pyright: ignore[reportArgumentType]
    assert found.keyframes == [("v", 902), ("w", 1798)]
    assert found.centers.tolist() == [60, 898 * 30]
    assert found.odd == {("x", 950): "it is broken"}
    info = VideoInfo(27_000, 40, 30)
    assert clip_frames(SPEC, info, 1, 60).tolist() == list(range(60 - 32, 60 + 32, 8))
    halved = find_keyframes(Source(grid=2), boxes, 900, {})  # pyright: ignore[reportArgumentType]
    assert (clip_frames(SPEC, info, 2, int(halved.centers[0])) * 2).tolist() == list(range(28, 92, 8))
    assert clip_frames(SPEC, VideoInfo(70, 40, 30), 1, 60).max() == 69
    with pytest.raises(ConfigError, match="--grid 2"):
        find_keyframes(Source(grid=4), truth_of(("v", 903)), 900, {})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_follow_crop_and_flip(flip):
    """A bright rectangle in the frame lies where its box says, in the clip that OpenCV cuts."""
    from modist_pipelines.clips.augment import augment_frame
    from modist_pipelines.plan import Augmentation

    info = VideoInfo(8, 320, 240)
    spec = replace(SPEC, crop_size=96)
    for item in range(12):
        plan = plan_training_keyframe(spec, info, 1, 4, seed=0, epoch=0, item=item, flip=flip)
        assert plan.flip is bool(flip)
        frame = np.zeros((240, 320, 3), np.uint8)
        frame[60:180, 100:200] = 255
        y, x, height, width = (int(value) for value in plan.crop)
        out = np.empty((96, 96, 3), np.float32)
        augment_frame(frame[y : y + height, x : x + width], plan, Augmentation(), out)
        box = boxes_in_clip(np.array([[100 / 320, 60 / 240, 200 / 320, 180 / 240]]), info, plan, (96, 96))[0]
        rows, columns = np.nonzero(out[..., 0] > 0)  # above the mean gray
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == pytest.approx(seen, abs=1.0), item


def test_boxes_are_clipped_to_the_crop():
    plan = ClipPlan(np.zeros(1, np.int64), (10, 20, 100, 100))
    box = boxes_in_clip(np.array([[0, 0, 0.5, 0.25]]), VideoInfo(1, 200, 200), plan, (50, 50))
    assert box.tolist() == [[0, 0, 40, 20]]


def test_the_whole_frame_has_its_short_side_at_256():
    assert whole_shape(256, VideoInfo(1, 455, 256)) == (256, 455)
    assert whole_shape(256, VideoInfo(1, 640, 353)) == (256, 464)  # 464.1
    assert whole_shape(256, VideoInfo(1, 300, 400)) == (341, 256)


# --- the net ---


def by_hand(net, x: torch.Tensor, arch: str) -> torch.Tensor:
    """res5 of the strided net's weights with stride 1 and holes in every 3 × 3: kernels of 5 × 5, zero in between."""

    def spread(weight: torch.Tensor) -> torch.Tensor:
        if weight.shape[-1] == 1:
            return weight
        wide = weight.new_zeros(*weight.shape[:-2], 5, 5)
        wide[..., ::2, ::2] = weight
        return wide

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = spread(state[name])
        return F.conv3d(x, weight, padding=tuple(side // 2 for side in weight.shape[2:]))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        values = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-5)

    state = {name: value.double() for name, value in net.state_dict().items() if value.is_floating_point()}
    for block in range(len(net.stages.res5)):
        at = f"stages.res5.{block}"
        y, letters = x, "abc" if arch == "r50" else "ab"
        for letter in letters:
            y = norm(f"{at}.residual.norm_{letter}", conv(f"{at}.residual.conv_{letter}.weight", y))
            y = y if letter == letters[-1] else y.relu()
        if f"{at}.shortcut.conv.weight" in state:
            x = norm(f"{at}.shortcut.norm", conv(f"{at}.shortcut.conv.weight", x))
        x = (x + y).relu()
    return x


@pytest.mark.parametrize("arch", ["r18", "r50"])
def test_dilated_res5_is_the_strided_net_with_holes_in_its_kernels(arch: str):
    torch.manual_seed(0)
    strided = visual_resnet(arch, 4)
    for module in strided.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
            module.running_var.uniform_(0.5, 1.5)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    net, strided = strided.for_detection().double().eval(), strided.double().eval()
    clips = torch.randn(2, 3, 4, 64, 96, dtype=torch.float64)
    res4 = clips
    with torch.no_grad():
        res4 = strided.pool(strided.stem_norm(strided.stem(clips), relu=True))
        for name in ("res2", "res3", "res4"):
            res4 = strided.stages.get_submodule(name)(res4)
        found = net.feature_map(clips)
        expected = by_hand(strided, res4, arch)
    assert found.shape[-2:] == (4, 6)
    assert strided.feature_map(clips).shape[-2:] == (2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def slow_roi_max(mapped: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Aligned ROIAlign of one box by loops, then the maximum; mapped (D, H, W)."""
    height, width = mapped.shape[1:]

    def sample(y: float, x: float) -> np.ndarray:
        if y < -1 or y > height or x < -1 or x > width:
            return np.zeros(len(mapped))
        y, x = max(y, 0.0), max(x, 0.0)
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        y = float(top) if top == height - 1 else y
        x = float(left) if left == width - 1 else x
        a, b = y - top, x - left
        return (
            (1 - a) * (1 - b) * mapped[:, top, left]
            + (1 - a) * b * mapped[:, top, right]
            + a * (1 - b) * mapped[:, bottom, left]
            + a * b * mapped[:, bottom, right]
        )

    x1, y1, x2, y2 = (value / 16 - 0.5 for value in box)
    bins = []
    samples = [int(np.ceil((y2 - y1) / 7)), int(np.ceil((x2 - x1) / 7))]
    for row in range(7):
        for column in range(7):
            values = [
                sample(
                    y1 + (row + (i + 0.5) / samples[0]) * (y2 - y1) / 7,
                    x1 + (column + (j + 0.5) / samples[1]) * (x2 - x1) / 7,
                )
                for i in range(samples[0])
                for j in range(samples[1])
            ]
            bins.append(np.mean(values, axis=0))
    return np.max(bins, axis=0)


def test_box_features_are_a_loop_over_bins():
    torch.manual_seed(1)
    features = torch.randn(2, 3, 5, 12, 14)
    boxes = [[[0, 0, 224, 192], [33, 10, 80, 150]], [[100, 100, 223, 191]]]
    found = box_features(features, [torch.tensor(part, dtype=torch.float32) for part in boxes])
    mapped = features.mean(dim=2).double().numpy()
    expected = [slow_roi_max(mapped[clip], box) for clip, part in enumerate(boxes) for box in part]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert box_features(features, [torch.zeros(0, 4)] * 2).shape == (0, 3)


# --- options ---

NEEDED = ["--out", "o", "--backbone", "random", "--train-boxes", "t.csv", "--test-truth", "v.csv", "--classes", "c"]


def test_the_defaults_are_the_paper_s_recipe():
    config = parse(["ava", *NEEDED, "--videos", "x"])
    assert (config.batch_size, config.epochs, config.dropout, config.data.min_score) == (64, 20, 0.5, 0.9)
    assert (config.num_frames, config.stride, config.crop_size, config.short_side) == (8, 8, 224, 256)
    assert config.data.num_actions == 80
    rates = [supervised_learning_rate(config.optim, epoch, 20, 64) for epoch in (0, 2.5, 5, 9.9, 10, 15)]
    assert rates == pytest.approx([0.000125, 0.0500625, 0.1, 0.1, 0.01, 0.001])
    assert parse(["ava", *NEEDED, "--videos", "x", "--preset", "ava"]) == replace(config, preset="ava")
    assert (
        parse(["ava", *NEEDED, "--videos", "x", "--preset", "small"]).crop_size
        == AVA_RECIPES["small"](config).crop_size
    )
    with pytest.raises(ConfigError, match="ava, small"):
        parse(["ava", *NEEDED, "--preset", "ssv2-full"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "Pass one of --videos"),
        (["--videos", "x", "--store", "y"], "Pass one of --videos"),
        (["--frames", "x"], "--frame-lists go together"),
        (["--videos", "x", "--frame-lists", "y"], "--frame-lists go together"),
        (["--store", "x", "--frames-fps", "24"], "--frames-fps 24 is of folders of pictures"),
        (["--videos", "x", "--compile"], "--compile does not go"),
        (["--videos", "x", "--flip", "2"], "--flip"),
        (["--videos", "x", "--frozen", "all", "--precise-bn-clips", "8"], "--precise-bn-clips 0"),
    ],
)
def test_options_that_do_not_fit_are_named(more, words):
    with pytest.raises(ConfigError, match=words):
        check_ava(parse(["ava", *NEEDED, *more]), 1)


# --- a whole run ---


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ava")
    assert made_up.make_ava(out, num_videos=4, seed=0, workers=1) == 4
    broken = out / "videos" / f"{made_up.name_of_video(1)}.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    return out


def config_of(made: Path, out: Path, **data: Any) -> AvaConfig:
    base = AVA_RECIPES["small"](
        AvaConfig(
            out=out,
            network=BackboneConfig(backbone="random", arch="r18", width=4),
            data=AvaDataConfig(
                videos=made / "videos",
                train_boxes=(made / made_up.TRUTH["train"],),
                test_truth=made / made_up.TRUTH["val"],
                test_boxes=made / made_up.PREDICTED,
                classes=made / made_up.CLASSES,
            ),
        )
    )
    return replace(
        base,
        data=replace(base.data, **data),
        epochs=12.0,
        optim=SupervisedOptimConfig(lr=1.0, lr_batch_size=4, warmup_epochs=0.0),
        batch_size=4,
        group_size=2,
        crop_size=64,
        precision="fp32",
        device="cpu",
        num_threads=1,
    )


def run(config: AvaConfig) -> dict:
    with join_world("cpu") as world:
        result = run_ava(config, world)
    assert result is not None
    return result


def frames_of(made: Path, folder: Path) -> Path:
    """The videos as JPEGs, and their list."""
    rows = ["original_vido_id video_id frame_id path labels"]
    for number, path in enumerate(sorted((made / "videos").glob("*.mp4"))):
        (folder / path.stem).mkdir(parents=True)
        if number == 1:  # the broken one
            rows.append(f'{path.stem} {number} 0 {path.stem}/none.jpg ""')
            continue
        with av.open(str(path)) as container:
            for frame, picture in enumerate(container.decode(video=0)):
                picture.to_image().save(folder / path.stem / f"{frame:06d}.jpg", quality=95)
                rows.append(f'{path.stem} {number} {frame} {path.stem}/{frame:06d}.jpg ""')
    return write(folder / "list.csv", "\n".join(rows) + "\n")


@pytest.mark.slow
def test_a_whole_run_names_the_broken_video_and_writes_everything(made, tmp_path):
    result = run(config_of(made, tmp_path / "run"))
    assert {row["video"].split()[0] for row in result["odd"]} == {made_up.name_of_video(1)}
    assert result["training"]["keyframes"] == 4  # of two of three videos
    assert 0 <= result["mAP"] <= 1
    assert result["num_keyframes"] == 2
    with (tmp_path / "run" / "detections.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == result["num_boxes"] * len(made_up.ACTIONS) == 4 * len(made_up.ACTIONS)
    for name in ("keyframes.png", "curves.png", "backbone.safetensors", "linear.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 1000, name
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([line["loss"] for line in lines[-2:]]) < 0.6 * lines[0]["loss"]
    with pytest.raises(ConfigError, match="already holds a run"):
        run(config_of(made, tmp_path / "run"))


@pytest.mark.slow
def test_frame_lists_give_what_the_videos_give(made, tmp_path):
    frames = tmp_path / "frames"
    listed = frames_of(made, frames)
    opened = FrameLists(frames, [listed])
    assert opened.num_videos == 3
    assert list(opened.refused) == [made_up.name_of_video(1)]
    short = {"epochs": 1.0}
    by_lists = run(replace(config_of(made, tmp_path / "a", videos=None, frames=frames, frame_lists=(listed,)), **short))
    by_videos = run(replace(config_of(made, tmp_path / "b"), **short))
    assert by_lists["training"] == by_videos["training"]
    tables = []
    for name in "ab":
        with (tmp_path / name / "detections.csv").open() as file:
            tables.append([(row[:7], float(row[7])) for row in csv.reader(file)])
    assert [key for key, _ in tables[0]] == [key for key, _ in tables[1]]
    assert [score for _, score in tables[0]] == pytest.approx([score for _, score in tables[1]], abs=0.05)


@pytest.mark.slow
def test_videos_that_are_folders_of_frames(made, tmp_path):
    """They have the keyframes of the videos at the rate of the frames; at half the rate twice as many seconds."""
    frames_of(made, tmp_path)
    (tmp_path / "list.csv").unlink()
    with join_world("cpu") as world:
        videos = open_ava(config_of(made, tmp_path / "out"), world)
        folders = open_ava(config_of(made, tmp_path / "out", videos=tmp_path), world)
        slower = open_ava(config_of(made, tmp_path / "out", videos=tmp_path, frames_fps=15.0), world)
    assert folders.test.keyframes == videos.test.keyframes
    assert folders.train.centers.tolist() == videos.train.centers.tolist()
    num_frames = [opened.test.videos.source.info(0).num_frames for opened in (videos, folders, slower)]
    assert num_frames[0] == num_frames[1] == pytest.approx(num_frames[2] / 2, abs=1)


@pytest.mark.slow
def test_frozen_all_trains_the_linear_layer_alone(made, tmp_path):
    from safetensors.torch import load_file

    frozen = replace(config_of(made, tmp_path / "frozen"), frozen="all", epochs=1.0)
    run(frozen)
    saved = load_file(tmp_path / "frozen" / "backbone.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = visual_resnet("r18", 4)
    assert torch.equal(saved["stem.weight"], first.stem.weight)
    # Batch norm has the statistics of clips, not those of a new net.
    assert not torch.equal(saved["stem_norm.running_mean"], first.stem_norm.running_mean)


@pytest.mark.slow
def test_videos_on_both_sides_are_refused(made, tmp_path):
    config = config_of(made, tmp_path / "leak")
    data = replace(config.data, train_boxes=(made / made_up.TRUTH["val"],))
    with pytest.raises(ConfigError, match="by heart"):
        run(replace(config, data=data))


@pytest.mark.slow
def test_make_demo_videos_ava_makes_this_set_instead(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make-demo-videos", str(tmp_path / "a"), "--ava", "--num-videos", "4"])
    make_demo_videos.main()
    names = [*made_up.TRUTH.values(), made_up.PREDICTED, made_up.CLASSES, made_up.EXCLUDED]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([*names, "seed.txt", "videos"])
    assert len(list((tmp_path / "a" / "videos").glob("made-*.mp4"))) == 4
    predicted = read_boxes([tmp_path / "a" / made_up.PREDICTED], 80, 0.9)
    assert {video for video, _ in predicted} == {made_up.name_of_video(3)}
    assert all(len(boxes) == 2 for boxes in predicted.values())  # what the detector is not sure of is left out


def test_made_up_boxes_surround_what_is_drawn():
    """Pixels that change when an object is left out lie in its box."""
    scene = made_up.AvaScene(0, 2)
    for second in (902, 903):
        frame = scene.draw(30 * (second - 900)).astype(int)
        boxes = scene.boxes(second) * [128, 96, 128, 96]
        objects = list(scene.objects)
        for number, box in enumerate(boxes):
            scene.objects = objects[:number] + objects[number + 1 :]
            changed = np.abs(scene.draw(30 * (second - 900)) - frame).max(axis=2) > 40
            rows, columns = np.nonzero(changed)
            assert len(rows) > 100
            assert columns.min() >= box[0] - 1.5
            assert columns.max() <= box[2] + 1
            assert rows.min() >= box[1] - 1.5
            assert rows.max() <= box[3] + 1
        scene.objects = objects
