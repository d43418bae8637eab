"""The benchmark of a large index: its made-up store is one, and choosing from it does not take it into memory."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modist_pipelines.plan import ClipSpec, PlanConfig, eligible_videos
from modist_pipelines.store.reader import Store
from modist_profiling.data.index import IndexBenchConfig, make_index, measure

pytestmark = pytest.mark.slow


def test_the_made_up_store_is_one(tmp_path: Path) -> None:
    make_index(tmp_path / "store", 4500, 12)
    store = Store.open(tmp_path / "store")
    assert (store.num_videos, list(store.shard_sizes())) == (4500, [0, 1, 2])
    assert store.videos[4321] == "videos/000004321.mp4"
    # One video after the other, without a gap: RGB, then edges.
    places = [store.place(video) for video in range(2000, 4000)]
    assert places[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(places))
    assert store.frame_checksums(4499, "edges").shape == (12,)
    config = PlanConfig(ClipSpec(2, 8), ClipSpec(3, 4), 24, grid=4)
    moving = [config.moving(store.scores(video, "edges")).any() for video in range(4500)]
    np.testing.assert_array_equal(eligible_videos(store, config).videos, np.flatnonzero(moving))
    assert 0.1 < np.mean(moving) < 0.9


def test_the_arrays_are_looked_at_and_not_kept(tmp_path: Path) -> None:
    """850 MB of arrays, 120 of them scores that are all looked at: one that kept those would hold 0.16 GB more."""
    found = measure(IndexBenchConfig(tmp_path, rows=100_000, frames=300))
    assert found["arrays GB"] > 0.8
    assert found["resident GB"] - found["of these, before the store"] < 0.115
    assert not list(tmp_path.iterdir())
