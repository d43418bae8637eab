"""The mapped index of a large store: the same answers as from Parquet, from arrays that are not read into memory."""

import json
import logging
import mmap
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures, write_video
from prepare_parts import opencv_edges

from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.plan import ClipSpec, PlanConfig, eligible_videos, threshold_that_rejects
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.source import ListColumn
from modist_pipelines.store import columns_writer
from modist_pipelines.store.columns import ABOUT_NAME, COLUMNS_NAME
from modist_pipelines.store.reader import INDEX_NAME, Store
from modist_pipelines.store.upkeep import compact

CONFIG = PlanConfig(ClipSpec(2, 4), ClipSpec(3, 4), 24, grid=4, motion_threshold=0.001, motion_input="flow")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several lengths, speeds and labels; one has no folder, so no label."""
    folder = tmp_path_factory.mktemp("videos")
    names = ["a/ä 1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4", "5.mp4"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        pictures = moving_pictures(40 + 8 * (number % 3), speed=1 + number, height=48, width=64)
        write_video(folder / name, pictures)
    return folder


@pytest.fixture
def store_path(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(columns_writer, "LARGE", 5)
    config = PrepareConfig(videos, tmp_path / "store", short_side=48, workers=1, motion_inputs=("edges", "flow"))
    prepare(config, opencv_edges)
    return tmp_path / "store"


def plain_and_mapped(path: Path) -> tuple[Store, Store]:
    """The store opened from Parquet alone, and with its mapped arrays."""
    plain_path = path.with_name("plain")
    shutil.rmtree(plain_path, ignore_errors=True)
    shutil.copytree(path, plain_path, ignore=shutil.ignore_patterns(COLUMNS_NAME))
    assert (path / COLUMNS_NAME / ABOUT_NAME).is_file()
    return Store.open(plain_path), Store.open(path)


def base_of(values: np.ndarray) -> object:
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    return base


def test_both_ways_give_the_same(store_path: Path) -> None:
    plain, mapped = plain_and_mapped(store_path)
    assert isinstance(base_of(mapped.score_column("flow").values), mmap.mmap)
    assert not isinstance(base_of(plain.score_column("flow").values), mmap.mmap)
    assert list(mapped.videos) == list(plain.videos)
    assert "a/ä 1.mp4" in mapped.videos
    assert list(mapped.labels) == list(plain.labels)
    assert None in mapped.labels
    assert mapped.videos[-1] == plain.videos[-1]
    assert mapped.labels[1:4] == plain.labels[1:4]
    assert mapped.videos[1:4] == plain.videos[1:4]
    for question in ("fingerprint", "content", "frame_bytes", "shard_sizes", "card"):
        assert getattr(mapped, question)() == getattr(plain, question)(), question
    for video in range(plain.num_videos):
        ours, theirs = mapped.info(video), plain.info(video)
        for name, scores in theirs.motion_scores.items():
            np.testing.assert_array_equal(ours.motion_scores[name], scores)
        assert replace(ours, motion_scores={}) == replace(theirs, motion_scores={})
        assert mapped.place(video) == plain.place(video)
        for kind in plain.kinds:
            np.testing.assert_array_equal(mapped.frame_checksums(video, kind), plain.frame_checksums(video, kind))
            frames = range(theirs.num_frames)
            for one, other in zip(
                mapped.read_frames(video, kind, frames), plain.read_frames(video, kind, frames), strict=True
            ):
                np.testing.assert_array_equal(one, other)
    mapped.verify()
    config = replace(CONFIG, motion_threshold=threshold_that_rejects(plain, CONFIG, 0.4))
    chosen = [eligible_videos(store, config) for store in (plain, pickle.loads(pickle.dumps(mapped)))]
    np.testing.assert_array_equal(chosen[0].videos, chosen[1].videos)
    assert chosen[0][1:] == chosen[1][1:]
    assert 0 < chosen[0].num_rejected < chosen[0].num_windows


def test_training_sees_the_same_clips(store_path: Path) -> None:
    batches = []
    for store in plain_and_mapped(store_path):
        loader = ClipLoader(store, CONFIG, batch_size=2, seed=0)
        batches.append(list(loader.iterate(0, 2)))
        loader.close()
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one.video_ids, other.video_ids)
        assert one.motion_query is not None
        assert other.motion_query is not None
        np.testing.assert_array_equal(one.motion_query.numpy(), other.motion_query.numpy())


def _other_index(path: Path) -> None:
    pq.write_table(pq.read_table(path / INDEX_NAME).slice(1), path / INDEX_NAME)


def _other_version(path: Path) -> None:
    about = path / COLUMNS_NAME / ABOUT_NAME
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": 99}))


def _cut(path: Path) -> None:
    os.truncate(path / COLUMNS_NAME / "rgb_offsets.npy", 200)


def _lost(path: Path) -> None:
    (path / COLUMNS_NAME / "label.npy").unlink()


def _text(path: Path) -> None:
    (path / COLUMNS_NAME / ABOUT_NAME).write_text("{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_index, "is not of this"),
        (_other_version, "another version"),
        (_cut, "is not whole"),
        (_lost, "is not whole"),
        (_text, "is damaged"),
    ],
)
def test_arrays_of_another_index_are_not_taken_and_that_is_said(
    change: Callable[[Path], None], words: str, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(store_path)
    with caplog.at_level(logging.WARNING, "modist"):
        store = Store.open(store_path)
    assert not isinstance(base_of(store.score_column("flow").values), mmap.mmap)
    assert store.num_videos == len(pq.read_table(store_path / INDEX_NAME))
    assert words in caplog.text


def test_a_store_that_grows_or_is_compacted_has_arrays_of_its_new_index(
    store_path: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = tmp_path / "more"
    shutil.copytree(videos, grown)
    write_video(grown / "b/6.mp4", moving_pictures(44, speed=2, height=48, width=64, seed=9))
    (grown / "a/2.mp4").unlink()
    config = PrepareConfig(grown, store_path, short_side=48, workers=1, motion_inputs=("edges", "flow"))
    prepare(config, opencv_edges)
    for _ in range(2):
        plain, mapped = plain_and_mapped(store_path)
        assert isinstance(base_of(mapped.score_column("flow").values), mmap.mmap)
        assert list(mapped.videos) == list(plain.videos)
        assert "b/6.mp4" in mapped.videos
        assert "a/2.mp4" not in mapped.videos
        assert mapped.content() == plain.content()
        compact(mapped)
    monkeypatch.setattr(columns_writer, "LARGE", 100)
    compact(Store.open(store_path))
    assert not (store_path / COLUMNS_NAME).exists()


def test_scores_are_looked_at_in_any_order_of_lengths() -> None:
    """Blocks of neighbours and of others: the same windows as one video after the other."""
    lengths = np.array([7, 7, 9, 7, 9, 9, 3, 7])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.random.default_rng(0).random(starts[-1]).astype(np.float32)

    class Source:
        num_videos, path = len(lengths), "made"

        def check_motion(self, name: str) -> None: ...

        def score_column(self, name: str) -> ListColumn:
            return ListColumn.of(values, starts)

    config = replace(CONFIG, motion_threshold=0.05)
    expected = [values[a:b] for a, b in pairwise(starts)]
    moving = [config.moving(scores) for scores in expected]
    found = eligible_videos(Source(), config)  # type: ignore[arg-type]
    assert found.videos.tolist() == [video for video, chosen in enumerate(moving) if chosen.any()]
    assert (found.num_windows, found.num_rejected) == (sum(map(len, moving)), sum((~one).sum() for one in moving))
