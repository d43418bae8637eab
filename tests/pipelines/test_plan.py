"""The plan: uniform, independent, pure draws, against loops that are written from the paper's sentences."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from clip_store import make_store, video_info
from prepare_parts import opencv_edges
from scipy import stats

from modist_pipelines.errors import DataError
from modist_pipelines.plan import (
    Augmentation,
    ClipPlan,
    ClipSpec,
    PlanConfig,
    SamplePlan,
    deal_keys,
    eligible_videos,
    partner_of,
    plan_clips,
    plan_sample,
    subset_of,
    threshold_that_rejects,
    video_order,
)
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store, VideoInfo

CONFIG = PlanConfig(ClipSpec(4, 8), ClipSpec(8, 4), crop_size=32, grid=4)
VISUAL_SPAN, MOTION_SPAN = 7, 8  # grid frames from the first of a clip to the last
NUM = 2500
ALPHA = 1e-3  # the seeds are fixed: what passes once passes always


def pvalue(result: Any) -> float:
    return result.pvalue  # scipy's stubs do not know it


def draw(config: PlanConfig, info: VideoInfo, num: int = NUM, seed: int = 1) -> list[SamplePlan]:
    """The plans of many videos that look the same."""
    return [plan_sample(config, seed, video % 7, video, info) for video in range(num)]


def starts(plans: list[SamplePlan], clip: str) -> np.ndarray:
    return np.array([getattr(plan, clip).frames[0] for plan in plans])


def assert_uniform(values: np.ndarray, among: list[int]) -> None:
    assert set(values) == set(among)
    if len(among) == 1:
        return
    assert pvalue(stats.chisquare([np.sum(values == value) for value in among])) > ALPHA


def assert_independent(a: np.ndarray, b: np.ndarray) -> None:
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    assert pvalue(stats.chi2_contingency(table)) > ALPHA


def windows_above(scores: np.ndarray, span: int, threshold: float, rule: str = "window") -> list[int]:
    """The starts of motion windows, as spec and paper say it, one frame at a time.

    Args:
        scores: in a store's units, [0, 10].
        threshold: γ, a share of full scale.
        rule: "window" asks for the mean, "frames" for each of them.
    """
    found = []
    for start in range(max(1, len(scores) - span + 1)):
        seen = [float(scores[min(start + i, len(scores) - 1)]) for i in range(span)]
        value = math.fsum(seen) / span if rule == "window" else min(seen)
        if threshold == 0 or value > 10 * threshold:
            found.append(start)
    return found


def test_starts_are_uniform_over_all_that_fit():
    plans = draw(CONFIG, video_info(20))
    for clip, span, step in (("visual", VISUAL_SPAN, 2), ("motion", MOTION_SPAN, 1)):
        for half in ("query", "key"):
            assert_uniform(starts(plans, f"{clip}_{half}"), list(range(20 - span + 1)))
            for plan in plans[:100]:
                assert (np.diff(getattr(plan, f"{clip}_{half}").frames) == step).all()


def test_starts_of_the_four_clips_are_independent():
    plans = draw(CONFIG, video_info(14))
    clips = ("visual_query", "visual_key", "motion_query", "motion_key")
    for i, a in enumerate(clips):
        for b in clips[i + 1 :]:
            assert_independent(starts(plans, a), starts(plans, b))


def test_starts_differ_between_epochs_and_seeds():
    info = video_info(300)
    clips = [plan_sample(CONFIG, seed, epoch, 5, info) for seed in range(30) for epoch in range(30)]
    assert len({int(plan.visual_query.frames[0]) for plan in clips}) > 200
    first = [[int(plan_sample(CONFIG, s, e, 5, info).visual_query.frames[0]) for e in range(200)] for s in (0, 1)]
    assert pvalue(stats.pearsonr(*first)) > ALPHA
    assert pvalue(stats.pearsonr(first[0][1:], first[0][:-1])) > ALPHA


def test_synchronized_pairs_start_together():
    config = replace(CONFIG, synchronized=True)
    scores = np.where((np.arange(40) > 8) & (np.arange(40) < 30), 0.6, 0.0)
    plans = draw(config, video_info(40, scores=scores), 1500)
    np.testing.assert_array_equal(starts(plans, "visual_query"), starts(plans, "motion_key"))
    np.testing.assert_array_equal(starts(plans, "visual_key"), starts(plans, "motion_query"))
    assert_independent(starts(plans, "visual_query"), starts(plans, "visual_key"))
    assert_uniform(starts(plans, "visual_query"), windows_above(scores, MOTION_SPAN, 0.02))


def test_synchronized_visual_clip_that_spans_more_starts_earlier():
    config = replace(CONFIG, visual=ClipSpec(4, 16), synchronized=True)
    for plan in draw(config, video_info(15), 200):
        assert plan.motion_key is not None
        assert plan.visual_query.frames[0] == min(plan.motion_key.frames[0], 15 - 13)
        assert plan.visual_query.frames[-1] <= 14


@pytest.mark.parametrize("num_frames", [1, 3, 7, 8, 9, 30])
@pytest.mark.parametrize(
    ("threshold", "rule"), [(0.0, "window"), (0.002, "window"), (0.005, "window"), (2e-5, "frames")]
)
def test_motion_windows_are_those_above_the_threshold(num_frames, threshold, rule):
    config = replace(CONFIG, motion_threshold=threshold, motion_rule=rule)
    scores = np.random.default_rng(num_frames).gamma(0.6, 0.07, num_frames).astype(np.float32)
    expected = windows_above(scores, MOTION_SPAN, threshold, rule)
    info = video_info(num_frames, scores=scores)
    if not expected:
        with pytest.raises(DataError, match=r"v\.mp4 has no motion window above --clips.motion-threshold"):
            plan_sample(config, 0, 0, 0, info)
        return
    plans = draw(config, info, 600)
    for clip in ("motion_query", "motion_key"):
        assert_uniform(starts(plans, clip), expected)


@pytest.mark.parametrize(("low", "high"), [(0.5, 10.0), (0.0, 1.0), (2.0, 2.5), (9.0, 11.0)])
def test_keys_start_as_far_from_queries_as_asked(low, high):
    """Grid frames are 4 / 30 s apart; where no start is far enough the farthest is taken, and none but those."""
    config = replace(CONFIG, shift_seconds=(low, high), motion_threshold=0.02)
    scores = np.where(np.arange(60) % 20 < 12, 1.0, 0.0)
    plans = draw(config, video_info(60, scores=scores), 4000)
    for clip, among in (
        ("visual", list(range(60 - VISUAL_SPAN + 1))),
        ("motion", windows_above(scores, MOTION_SPAN, 0.02)),
    ):
        pairs = set(zip(starts(plans, f"{clip}_query").tolist(), starts(plans, f"{clip}_key").tolist(), strict=True))
        assert {query for query, _ in pairs} == set(among)
        for query in among:
            shifts = {key: abs(key - query) * 4 / 30 for key in among}
            allowed = {key for key, shift in shifts.items() if low <= shift <= high}
            if not allowed:
                farther = [shift for shift in shifts.values() if shift >= low]
                nearest = min(farther) if farther else max(shifts.values())
                allowed = {key for key, shift in shifts.items() if shift == nearest}
            found = {key for first, key in pairs if first == query}
            assert found <= allowed
            assert len(found) > 0.5 * len(allowed)


def test_short_videos_repeat_their_last_frame():
    plan = plan_sample(CONFIG, 0, 0, 0, video_info(5))
    assert plan.motion_query is not None
    for clip in (plan.visual_query, plan.visual_key):
        assert clip.frames.tolist() == [0, 2, 4, 4]
    assert plan.motion_query.frames.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("rule", ["window", "frames"])
@pytest.mark.parametrize("threshold", [0.0, 5e-5, 0.002, 0.006, 0.5])
def test_eligible_videos(tmp_path, monkeypatch, threshold, rule):
    rng = np.random.default_rng(3)
    lengths = [int(n) for n in rng.integers(1, 24, size=40)]
    scores = {video: rng.gamma(0.4, 0.08, num).astype(np.float32) for video, num in enumerate(lengths)}
    store = make_store(tmp_path, lengths, height=16, width=16, scores=scores)
    monkeypatch.setattr("modist_pipelines.plan._BLOCK", 30)  # so that blocks of one length are split
    config = replace(CONFIG, motion_threshold=threshold, motion_rule=rule)
    found = eligible_videos(store, config)
    kept = [windows_above(scores[video], MOTION_SPAN, threshold, rule) for video in range(len(lengths))]
    assert found.videos.tolist() == [video for video, windows in enumerate(kept) if windows]
    num_windows = sum(max(1, num - MOTION_SPAN + 1) for num in lengths)
    assert found.num_windows == (num_windows if threshold else 0)  # nobody counts what nothing rejects
    assert found.num_rejected == (num_windows - sum(map(len, kept)) if threshold else 0)
    for video in found.videos:  # none of them fails later
        plan_sample(config, 0, 0, int(video), store.info(int(video)))
    assert eligible_videos(store, replace(config, motion_input=None)).videos.tolist() == list(range(40))


@pytest.mark.parametrize("rule", ["window", "frames"])
@pytest.mark.parametrize("share", [0.001, 0.15, 0.5, 0.9])
def test_the_threshold_that_rejects_a_share_rejects_it(tmp_path, rule, share):
    """And not more windows than lie within its last digit."""
    rng = np.random.default_rng(4)
    lengths = [int(n) for n in rng.integers(1, 40, size=30)]
    scores = {video: rng.uniform(0.1, 9, num).astype(np.float32) for video, num in enumerate(lengths)}
    store = make_store(tmp_path, lengths, height=16, width=16, scores=scores)
    config = replace(CONFIG, motion_rule=rule)
    threshold = threshold_that_rejects(store, config, share)
    kept, more = (
        sum(len(windows_above(values, MOTION_SPAN, gamma, rule)) for values in scores.values())
        for gamma in (threshold, threshold - 2e-3)
    )
    num_windows = sum(max(1, num - MOTION_SPAN + 1) for num in lengths)
    assert num_windows - kept >= share * num_windows > num_windows - more
    if rule == "window":  # the least frame of a window is that of its neighbours too
        assert num_windows - kept <= share * num_windows + 2
    assert threshold == float(f"{threshold:.4g}")


def test_a_store_without_differences_has_no_threshold_that_rejects_a_share(tmp_path):
    store = make_store(tmp_path, [12, 12], height=16, width=16, scores={v: np.ones(12, np.float32) for v in (0, 1)})
    with pytest.raises(DataError, match="no threshold rejects 20%"):
        threshold_that_rejects(store, CONFIG, 0.2)


def test_the_papers_threshold_tells_real_videos_apart(shared_data, tmp_path):
    """Hands on a piano move little, a race all the time; in a store's own units 0.02 would reject neither."""
    for name in ("PlayingPiano", "HorseRace"):
        for path in sorted((shared_data / "ucf101_6" / name).iterdir())[:3]:
            (tmp_path / "videos" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / name / path.name).symlink_to(path)
    prepare(PrepareConfig(tmp_path / "videos", tmp_path / "store", short_side=128, workers=2), opencv_edges)
    store = Store.open(tmp_path / "store")
    config = PlanConfig(ClipSpec(8, 8), ClipSpec(16, 4), crop_size=112, grid=store.grid)
    assert config.motion_threshold == 0.02
    any_window = replace(config, motion_threshold=0.0)
    share: dict[str, float] = {"PlayingPiano": 0.0, "HorseRace": 0.0}
    changed: dict[str, int] = {"PlayingPiano": 0, "HorseRace": 0}
    for video, label in enumerate(store.labels):
        info = store.info(video)
        assert label is not None
        windows = windows_above(info.scores("edges"), 16, 0)
        kept = windows_above(info.scores("edges"), 16, 0.02)
        share[label] += (len(windows) - len(kept)) / len(windows) / 3
        for epoch in range(20 if kept else 0):
            with_threshold, without = (plan_sample(c, 0, epoch, video, info) for c in (config, any_window))
            assert with_threshold.motion_query is not None
            assert without.motion_query is not None
            assert with_threshold.motion_query.frames[0] in kept
            changed[label] += with_threshold.motion_query.frames[0] != without.motion_query.frames[0]
    assert share["PlayingPiano"] > 0.3
    assert share["HorseRace"] == 0
    assert changed["HorseRace"] == 0
    assert len(eligible_videos(store, config).videos) < store.num_videos or changed["PlayingPiano"] > 0


def test_options_of_one_clip_do_not_move_another_draw():
    """Comparing ablations clip by clip would mean nothing otherwise."""
    info = video_info(30, 120, 90)
    plain = Augmentation(flip=0, color=0, gray=0, blur=0)
    for video in range(50):
        full, bare = (
            plan_sample(replace(CONFIG, augmentation=options), 0, 3, video, info) for options in (Augmentation(), plain)
        )
        for a, b in zip(full[1:], bare[1:], strict=True):
            assert isinstance(a, ClipPlan)
            assert isinstance(b, ClipPlan)
            assert a.frames.tolist() == b.frames.tolist()
            assert a.crop == b.crop
        assert (bare.visual_key.flip, bare.visual_key.brightness, bare.visual_key.blur_sigma) == (False, 1, 0)
        gray = plan_sample(replace(CONFIG, augmentation=replace(plain, gray=1.0, blur=0.5)), 0, 3, video, info)
        assert gray.visual_query.gray
        assert gray.visual_query.blur_sigma == full.visual_query.blur_sigma
        rgb_only = plan_sample(replace(CONFIG, motion_input=None), 0, 3, video, info)
        assert (rgb_only.motion_query, rgb_only.motion_key) == (None, None)
        for clip in ("visual_query", "visual_key"):
            assert str(getattr(rgb_only, clip)) == str(getattr(full, clip))


def test_halves_make_the_sample():
    info = video_info(30)
    sample = plan_sample(CONFIG, 2, 1, 9, info)
    assert str(plan_clips(CONFIG, 2, 1, 9, info, key=False)) == str((sample.visual_query, sample.motion_query))
    assert str(plan_clips(CONFIG, 2, 1, 9, info, key=True)) == str((sample.visual_key, sample.motion_key))


@pytest.mark.parametrize("clip", ["visual", "motion"])
def test_grid_has_to_divide_the_strides(clip):
    with pytest.raises(DataError, match=rf"--clips\.{clip}\.stride 6 is not a multiple .* grid of 4"):
        replace(CONFIG, **{clip: ClipSpec(8, 6)})


def test_order_of_videos():
    orders = [video_order(seed, epoch, 100) for seed in (0, 1) for epoch in (0, 1, 2)]
    for order in orders:
        assert sorted(order) == list(range(100))
    for a, b in pairwise(orders):
        assert np.mean(a == b) < 0.1
    np.testing.assert_array_equal(video_order(1, 2, 100), orders[-1])
    firsts = np.array([video_order(0, epoch, 10)[0] for epoch in range(2000)])
    assert_uniform(firsts, list(range(10)))


def test_deal_of_keys():
    deals = np.array([deal_keys(5, step, 8) for step in range(2000)])
    assert (np.sort(deals, axis=1) == np.arange(8)).all()
    for position in range(8):
        assert_uniform(deals[:, position], list(range(8)))
    assert (deal_keys(6, 0, 64) != deal_keys(5, 0, 64)).any()


def test_subset():
    chosen = subset_of(3, 50, 20)
    assert len(set(chosen)) == 20
    assert (np.diff(chosen) > 0).all()
    assert (chosen >= 0).all()
    assert (chosen < 50).all()
    assert (subset_of(4, 50, 20) != chosen).any()
    members = np.concatenate([subset_of(seed, 10, 3) for seed in range(1000)])
    assert_uniform(members, list(range(10)))


def test_crops_lie_in_the_frame_and_in_their_ranges():
    width, height = 340, 256
    plans = draw(CONFIG, video_info(20, width, height), 2000)
    for clip in ("visual_query", "visual_key"):
        y, x, h, w = np.array([getattr(plan, clip).crop for plan in plans]).T
        assert (y >= 0).all()
        assert (x >= 0).all()
        assert (y + h <= height).all()
        assert (x + w <= width).all()
        # Sides are whole pixels: half a pixel of each may be missing or too much.
        area, slack = w * h / (width * height), (w + h) / 2 / (width * height)
        assert (area >= 0.3 - slack).all()
        assert (area <= 1 + slack).all()
        assert area.min() < 0.33
        assert area.max() > 0.9
        aspect = w / h
        assert (aspect > 0.5 * (1 - 1 / h) - 1 / h).all()
        assert (aspect < 2 * (1 + 1 / h) + 1 / h).all()
        assert aspect.min() < 0.55
        assert aspect.max() > 1.8
        # Where there is room, every place is as likely as another.
        room = width - w > 40
        assert pvalue(stats.kstest((x[room] + 0.5) / (width - w[room] + 1), "uniform")) > ALPHA
        assert pvalue(stats.kstest((y[height - h > 40] + 0.5) / (height - h + 1)[height - h > 40], "uniform")) > ALPHA


def test_crops_reach_every_border():
    crops = [plan.visual_query.crop for plan in draw(CONFIG, video_info(20, 12, 10))]
    y, x, h, w = np.array(crops, dtype=int).T
    assert_uniform(x[w == 12 - 2], [0, 1, 2])
    assert_uniform(y[h == 10 - 2], [0, 1, 2])


def test_crop_sizes_follow_those_of_torchvision():
    import torch
    from torchvision.transforms import RandomResizedCrop

    plans = draw(CONFIG, video_info(20, 171, 128), 2000)
    ours = np.array([plan.visual_query.crop for plan in plans])
    torch.manual_seed(0)
    image = torch.zeros(1, 128, 171)
    peer = np.array([RandomResizedCrop.get_params(image, [0.3, 1.0], [0.5, 2.0]) for _ in range(2000)])
    for mine, theirs in ((ours[:, 2], peer[:, 2]), (ours[:, 3], peer[:, 3]), (ours[:, 0], peer[:, 0])):
        assert pvalue(stats.ks_2samp(mine, theirs)) > ALPHA


@pytest.mark.parametrize(("width", "height", "shape"), [(1000, 20, (20, 40)), (20, 1000, (40, 20))])
def test_crop_of_extreme_frames_is_the_largest_central_one(width, height, shape):
    crops = {plan.visual_query.crop for plan in draw(CONFIG, video_info(20, width, height), 300)}
    fallback = ((height - shape[0]) // 2, (width - shape[1]) // 2, *shape)
    assert fallback in crops
    for y, x, h, w in crops:
        assert 0 <= y <= height - h
        assert 0 <= x <= width - w
        assert 0.45 < w / h < 2.2


def test_motion_crop_is_a_square_with_its_own_draw_and_no_more():
    plans = draw(CONFIG, video_info(20, 96, 64), 2000)
    for clip in ("motion_query", "motion_key"):
        chosen = [getattr(plan, clip) for plan in plans]
        y, x, h, w = np.array([plan.crop for plan in chosen]).T
        assert set(h) == set(w) == {56}
        assert_uniform(y, list(range(64 - 56 + 1)))
        assert_uniform(x, list(range(96 - 56 + 1)))
        assert {plan[2:] for plan in chosen} == {(False, 1.0, 1.0, 1.0, False, 0.0)}
    assert_independent(*(np.array([getattr(p, c).crop[0] for p in plans]) for c in ("motion_query", "motion_key")))


def test_probabilities_and_ranges_of_the_augmentation():
    plans = draw(CONFIG, video_info(20), 2000)
    for clip in ("visual_query", "visual_key"):
        chosen = [getattr(plan, clip) for plan in plans]
        happened = {
            "flip": ([plan.flip for plan in chosen], 0.5),
            "color": ([plan.brightness != 1 for plan in chosen], 0.8),
            "gray": ([plan.gray for plan in chosen], 0.2),
            "blur": ([plan.blur_sigma > 0 for plan in chosen], 0.5),
        }
        for what, probability in happened.values():
            assert pvalue(stats.binomtest(sum(what), len(what), probability)) > ALPHA
        for (a, _), (b, _) in pairwise(happened.values()):
            assert_independent(np.array(a, dtype=int), np.array(b, dtype=int))
        for name in ("brightness", "contrast", "saturation"):
            values = np.array([getattr(plan, name) for plan in chosen])
            assert ((values != 1) == happened["color"][0]).all()
            assert pvalue(stats.kstest(values[values != 1], stats.uniform(0.6, 0.8).cdf)) > ALPHA
        sigma = np.array([plan.blur_sigma for plan in chosen])
        assert pvalue(stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf)) > ALPHA
    flips = [np.array([getattr(p, c).flip for p in plans], dtype=int) for c in ("visual_query", "visual_key")]
    assert_independent(*flips)


def test_any_time_draws_motion_frames_from_the_whole_video_in_any_order_and_moves_nothing_else():
    config = replace(CONFIG, motion_control="any-time")
    plans, plain = draw(config, video_info(40), 300), draw(CONFIG, video_info(40), 300)
    frames = np.concatenate([plan.motion_query.frames for plan in plans if plan.motion_query is not None])
    assert_uniform(frames, list(range(40)))
    ordered = [bool((np.diff(plan.motion_key.frames) >= 0).all()) for plan in plans if plan.motion_key is not None]
    assert np.mean(ordered) < 0.2
    for one, other in zip(plans, plain, strict=True):
        assert one.motion_query is not None
        assert other.motion_query is not None
        assert one.motion_query.crop == other.motion_query.crop
        np.testing.assert_array_equal(one.visual_query.frames, other.visual_query.frames)


@pytest.mark.parametrize("num_videos", [2, 3, 50])
def test_partners_are_one_cycle_through_all_videos(num_videos):
    seen, video = [], 0
    for _ in range(num_videos):
        video = partner_of(7, num_videos, video)
        seen.append(video)
    assert sorted(seen) == list(range(num_videos))
    assert seen[-1] == 0


def test_partners_are_the_seeds():
    first, second = ([partner_of(seed, 50, video) for video in range(50)] for seed in (0, 1))
    assert first != second
    assert first == [partner_of(0, 50, video) for video in range(50)]


def test_controls_that_cannot_be_are_refused():
    with pytest.raises(DataError, match=r"Set --clips\.motion-threshold 0"):
        replace(CONFIG, motion_control="another-video", motion_threshold=0.02)
    with pytest.raises(DataError, match="has no motion pathway"):
        replace(CONFIG, motion_control="any-time", motion_input=None)
    with pytest.raises(DataError, match="two videos or more"):
        partner_of(0, 1, 0)
