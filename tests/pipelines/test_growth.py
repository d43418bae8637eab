"""A store that lives: videos come, go and change, and no other is touched."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures, write_video

from modist_pipelines.errors import DataError
from modist_pipelines.prepare import shards as dealing
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store
from modist_pipelines.store.upkeep import Holes, compact, damage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """Six videos of one size each other, no two of them alike."""
    folder = tmp_path_factory.mktemp("pool")
    for number in range(6):
        write_video(folder / f"{number}.mp4", moving_pictures(20, 1 + number, 32, 48, seed=number))
    return folder


@pytest.fixture
def videos(pool, tmp_path, monkeypatch) -> Path:
    """Four of them, in shards of one each."""
    monkeypatch.setattr(dealing, "_MAX_VIDEOS_PER_SHARD", 1)
    for number in range(4):
        copy(pool / f"{number}.mp4", tmp_path / f"v/{number}.mp4")
    return tmp_path / "v"


def copy(source: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, to)


def run(videos: Path, **options: Any) -> Store:
    config = replace(PrepareConfig(videos, videos.parent / "store", short_side=32, workers=1), **options)
    prepare(config, prepare_parts.opencv_edges)
    return Store.open(config.out)


def shards(store: Store) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (store.path / "shards").glob("*")}


def frames(store: Store, video: str) -> list[bytes]:
    row = list(store.videos).index(video)
    return [jpeg.tobytes() for jpeg in store.read_frames(row, "rgb", range(int(store.num_frames[row])))]


def test_a_file_more_writes_one_shard(videos, pool):
    before = run(videos)
    old, was = shards(before), before.fingerprint()
    copy(pool / "5.mp4", videos / "0_first_by_name.mp4")
    store = run(videos)
    # The videos that were there keep their numbers: the new one comes last, whatever its name.
    assert list(store.videos) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "0_first_by_name.mp4"]
    now = shards(store)
    assert {name: now[name] for name in old} == old
    assert set(now) - set(old) == {"00004.bin"}
    store.verify()
    assert store.fingerprint() != was
    alone = run(videos.parent / "v", out=videos.parent / "anew")
    assert frames(store, "0_first_by_name.mp4") == frames(alone, "0_first_by_name.mp4")


def test_a_file_more_in_a_store_of_125_shards(pool, tmp_path):
    for number in range(125):
        copy(pool / "0.mp4", tmp_path / f"v/{number:03d}.mp4")
    old = shards(run(tmp_path / "v"))
    assert len(old) == 125
    copy(pool / "1.mp4", tmp_path / "v/one_more.mp4")
    now = shards(run(tmp_path / "v"))
    assert {name: now[name] for name in old} == old
    assert len(now) == 126


def test_a_removed_file_leaves_the_index(videos):
    old = shards(run(videos))
    (videos / "1.mp4").unlink()
    store = run(videos)
    assert list(store.videos) == ["0.mp4", "2.mp4", "3.mp4"]
    assert shards(store) == old
    store.verify()


@pytest.mark.parametrize("same_size", [True, False])
def test_a_replaced_file_is_made_anew(videos, pool, same_size):
    kept = frames(run(videos), "0.mp4")
    data = (pool / "4.mp4").read_bytes()
    size = (videos / "1.mp4").stat().st_size
    if same_size:
        assert len(data) <= 2 * size
        other = (videos / "2.mp4").read_bytes()
        longest = max(size, len(other), len(data))
        # Bytes behind the last box are no part of the video.
        (videos / "1.mp4").write_bytes((videos / "1.mp4").read_bytes().ljust(longest, b"\0"))
        run(videos)
        time = (videos / "1.mp4").stat()
        (videos / "1.mp4").write_bytes(data.ljust(longest, b"\0"))
        os.utime(videos / "1.mp4", ns=(time.st_atime_ns, time.st_mtime_ns + 10**9))
    else:
        (videos / "1.mp4").write_bytes(data + b"\0" * (len(data) == size))
    store = run(videos)
    assert list(store.videos) == ["0.mp4", "2.mp4", "3.mp4", "1.mp4"]
    copy(pool / "4.mp4", videos.parent / "w/4.mp4")
    expected = run(videos.parent / "w", out=videos.parent / "other")
    assert frames(store, "1.mp4") == frames(expected, "4.mp4")
    assert frames(store, "0.mp4") == kept
    store.verify()


def test_another_time_alone_is_no_other_file(videos):
    """A copy of the corpus: sizes and contents are the same."""
    store = run(videos)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    for path in videos.iterdir():
        os.utime(path, ns=(1, 10**18))
    run(videos)
    assert before == {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def test_half_made_stores_grow_too(videos, pool, monkeypatch):
    """Stopped after two of four shards; then one file goes that was done, one that was not, and one comes."""
    with monkeypatch.context() as patch:
        patch.setattr("modist_pipelines.prepare.run._finish", lambda *args: None)
        config = PrepareConfig(videos, videos.parent / "store", short_side=32, workers=1)
        prepare(config, prepare_parts.opencv_edges)
    for shard in (2, 3):  # as if they had not come to it
        for path in (config.out / ".partial").glob(f"{shard:05d}.*"):
            path.unlink()
        (config.out / f"shards/{shard:05d}.bin").unlink()
    old = {path.name: path.read_bytes() for path in (config.out / "shards").iterdir()}
    assert set(old) == {"00000.bin", "00001.bin"}
    (videos / "1.mp4").unlink()
    (videos / "2.mp4").unlink()
    copy(pool / "5.mp4", videos / "5.mp4")
    store = run(videos)
    assert list(store.videos) == ["0.mp4", "3.mp4", "5.mp4"]
    assert {name: (store.path / "shards" / name).read_bytes() for name in old} == old
    store.verify()


def test_quarantined_videos_are_tried_again_on_demand(videos, pool):
    (videos / "x.mp4").write_bytes(b"no video")
    store = run(videos)
    assert store.quarantine().keys() == {"x.mp4"}
    # As after a decoder was mended: the file is the same to all that is noted.
    sources = pq.read_table(store.path / "sources.parquet")
    pq.write_table(sources.filter(np.array(sources["video"].to_pylist()) != "x.mp4"), store.path / "sources.parquet")
    copy(pool / "4.mp4", videos / "x.mp4")
    assert run(videos).quarantine().keys() == {"x.mp4"}
    store = run(videos, retry_quarantined=True)
    assert store.quarantine() == {}
    assert list(store.videos)[-1] == "x.mp4"


def test_a_quarantined_file_that_was_replaced_is_taken(videos, pool):
    (videos / "x.mp4").write_bytes(b"no video")
    run(videos)
    copy(pool / "4.mp4", videos / "x.mp4")
    assert run(videos).quarantine() == {}


def test_stores_of_before_grow(videos, pool):
    """They do not say which files they were made from: what was replaced is not seen, the rest is."""
    store = run(videos)
    (store.path / "sources.parquet").unlink()
    copy(pool / "5.mp4", videos / "5.mp4")
    (videos / "0.mp4").unlink()
    assert list(run(videos).videos) == ["1.mp4", "2.mp4", "3.mp4", "5.mp4"]


def test_another_folder_is_not_a_change(videos, pool):
    run(videos)
    copy(pool / "5.mp4", videos.parent / "w/5.mp4")
    with pytest.raises(DataError, match="made from other files"):
        run(videos.parent / "w")


def test_parts_do_not_take_up_changes(videos, pool):
    run(videos)
    copy(pool / "5.mp4", videos / "5.mp4")
    with pytest.raises(DataError, match=r"1 added.*without them"):
        run(videos, shard="1/2")


def test_videos_that_all_break_leave_the_store_as_it_was(videos):
    store = run(videos)
    before = {path: path.read_bytes() for path in store.path.rglob("*.parquet")}
    for path in videos.glob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"none of the files can be used any more.*stays as it was"):
        run(videos)
    assert {path: path.read_bytes() for path in store.path.rglob("*.parquet")} == before
    assert damage(Store.open(store.path)) == []


def test_labels_of_a_list_follow_it(videos):
    path = videos / "list.csv"
    path.write_text("video,label\n0.mp4,a\n1.mp4,b\n")
    out = videos.parent / "listed"
    assert list(run(path, out=out).labels) == ["a", "b"]
    path.write_text("video,label\n0.mp4,a\n1.mp4,c\n")
    assert list(run(path, out=out).labels) == ["a", "c"]


def test_compaction_frees_the_room_and_nothing_else(videos, monkeypatch):
    """One video of a shard of two goes, and a shard of its own; the others stay as they are, by number and byte."""
    monkeypatch.setattr(dealing, "_MAX_VIDEOS_PER_SHARD", 3)
    monkeypatch.setattr(dealing, "_MANY_SHARDS", 2)
    run(videos)  # 0 and 1, then 2 and 3
    (videos / "0.mp4").unlink()
    store = run(videos)
    before = {video: frames(store, video) for video in store.videos}
    untouched = (store.path / "shards/00001.bin").read_bytes()
    fingerprint, holes = store.fingerprint(), Holes.of(store)
    assert holes.shards == (0,)
    (store.path / "shards/00007.bin").write_bytes(b"left by a run that was killed")
    assert compact(store) == holes.num_bytes + 29
    store = Store.open(store.path)
    assert {video: frames(store, video) for video in store.videos} == before
    assert (store.path / "shards/00001.bin").read_bytes() == untouched
    assert {path.name for path in (store.path / "shards").iterdir()} == {"00001.bin", "00008.bin"}
    assert (store.fingerprint(), Holes.of(store).num_bytes) == (fingerprint, 0)
    store.verify()
    assert compact(store) == 0
    (videos / "3.mp4").unlink()
    assert run(videos).fingerprint() != fingerprint


def test_check_names_every_damaged_video(videos):
    store = run(videos)
    assert damage(store) == []
    for shard in (0, 2):
        path = store.path / f"shards/{shard:05d}.bin"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert [line.partition(":")[0] for line in damage(Store.open(store.path))] == ["0.mp4", "2.mp4"]
