"""The store: what is written is read back, and damage is named."""

import contextlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import MapScale
from modist_pipelines.store.reader import Store, StoreMeta, shard_path
from modist_pipelines.store.writer import ShardWriter, quarantine_table, write_tables

KINDS = ("rgb", "edges", "difference")
META = StoreMeta(
    short_side=64,
    motion_inputs={"edges": MapScale("px", 10.0), "difference": MapScale("levels", 255.0)},
)


def frame_bytes(video: str, kind: str, frame: int) -> bytes:
    """Bytes that no other frame has, of a length of its own."""
    seed = sum(map(ord, video)) * 1000 + KINDS.index(kind) * 100 + frame
    return np.random.default_rng(seed).bytes(20 + 7 * frame + KINDS.index(kind))


VIDEOS = {"b/x.mp4": 5, "a/y.mp4": 9, "c.mp4": 1, "b/a.mp4": 30}  # name to grid frames


@pytest.fixture
def store_path(tmp_path) -> Path:
    names = list(VIDEOS)
    writers = [ShardWriter(tmp_path, shard, ["edges", "difference"]) for shard in range(2)]
    tables = []
    for writer, videos in zip(writers, (names[:2], names[2:]), strict=True):
        with writer:
            for video in videos:
                writer.append(b"of a video that is dropped", {"edges": (b"1", 9.0), "difference": (b"2", 9.0)})
                writer.drop_video()
                for frame in range(VIDEOS[video]):
                    motion = {k: (frame_bytes(video, k, frame), frame / 10) for k in KINDS[1:]}
                    writer.append(frame_bytes(video, "rgb", frame), motion)
                writer.finish_video(
                    video,
                    label=video.split("/")[0] if "/" in video else None,
                    width=96,
                    height=64,
                    source_fps=25.0,
                    num_source_frames=4 * VIDEOS[video],
                )
            tables.append(writer.table())
    row = {"video": "bad.mp4", "reason": "unreadable", "detail": "nothing"}
    write_tables(tmp_path, META, pa.concat_tables(tables), quarantine_table([row]))
    return tmp_path


def test_round_trip(store_path):
    store = Store.open(store_path)
    assert store.meta == META
    assert list(store.videos) == sorted(VIDEOS)
    assert list(store.labels) == ["a", "b", "b", None]
    for row, video in enumerate(store.videos):
        info = store.info(row)
        assert (info.video, info.num_frames, info.width, info.height) == (video, VIDEOS[video], 96, 64)
        assert (info.source_fps, info.num_source_frames) == (25.0, 4 * VIDEOS[video])
        np.testing.assert_array_equal(info.scores("edges"), np.arange(VIDEOS[video], dtype=np.float32) / 10)
        for kind in KINDS:
            read = store.read_frames(row, kind, range(VIDEOS[video]))
            assert [frame.tobytes() for frame in read] == [
                frame_bytes(video, kind, frame) for frame in range(VIDEOS[video])
            ]
    store.verify()


def test_frames_in_any_order_from_many_threads(store_path):
    store = Store.open(store_path)
    row = list(store.videos).index("b/a.mp4")

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 30, size=16)
        kind = KINDS[seed % 3]
        read = store.read_frames(row, kind, frames)
        assert [frame.tobytes() for frame in read] == [frame_bytes("b/a.mp4", kind, int(f)) for f in frames]
        if seed % 7 == 0:
            store.close()  # while others read

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(200)))


def test_pickled_store_reads(store_path):
    copy = pickle.loads(pickle.dumps(Store.open(store_path)))
    assert copy.read_frames(0, "rgb", [3])[0].tobytes() == frame_bytes("a/y.mp4", "rgb", 3)


def open_files(folder: Path) -> int:
    """Descriptors of this process that lead into a folder."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            links.append(os.readlink(fd))
    return sum(link.startswith(f"{folder.resolve()}/") for link in links)


@pytest.mark.fault
def test_closed_store_leaves_no_open_files(store_path):
    store = Store.open(store_path)
    for row in range(4):
        store.read_frames(row, "rgb", [0])
    assert open_files(store_path / "shards") == 2  # Arrow may still hold the index
    store.close()
    assert open_files(store_path / "shards") == 0


def test_frame_that_is_not_there(store_path):
    with pytest.raises(IndexError):
        Store.open(store_path).read_frames(3, "rgb", [1])


@pytest.mark.fault
def test_every_flipped_byte_is_found(store_path):
    path = shard_path(store_path, 1)
    whole = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(whole), size=20):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"00001\.bin is damaged: \w+ frame \d+ of .*checksum"):
            Store.open(store_path).verify()


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: os.truncate(p / "shards/00000.bin", 100), r"00000\.bin has 100 bytes"),
        (lambda p: (p / "shards/00001.bin").unlink(), r"00001\.bin is missing"),
        (lambda p: change_json(p / "store.json", version=2), "version 2, but this program reads"),
        (lambda p: change_json(p / "store.json", format="other"), "format 'other'"),
        (lambda p: change_json(p / "store.json", surprise=1), r"store\.json is damaged"),
        (lambda p: (p / "store.json").write_text("{"), r"store\.json is damaged"),
        (lambda p: (p / "store.json").unlink(), "is not a store"),
        (lambda p: (p / "index.parquet").unlink(), r"index\.parquet cannot be read"),
        (lambda p: os.truncate(p / "index.parquet", 500), r"index\.parquet cannot be read"),
    ],
)
def test_spoiled_stores_are_refused(store_path, spoil, message):
    spoil(store_path)
    with pytest.raises(DataError, match=message):
        Store.open(store_path)


def test_half_made_store_is_named_so(tmp_path):
    (tmp_path / ".partial").mkdir()
    with pytest.raises(DataError, match="half-made"):
        Store.open(tmp_path)


def test_motion_input_that_the_store_does_not_hold(store_path):
    store = Store.open(store_path)
    with pytest.raises(DataError, match="holds no 'magnitude'"):
        store.read_frames(0, "magnitude", [0])
    with pytest.raises(DataError, match="holds no 'magnitude', only edges, difference"):
        store.scores(0, "magnitude")


def test_writer_leaves_nothing_of_a_failed_shard(tmp_path):
    def fail() -> None:
        with ShardWriter(tmp_path, 0, []) as writer:
            writer.append(b"x", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "shards").iterdir()) == []
    with ShardWriter(tmp_path, 0, []):
        pass
    assert list((tmp_path / "shards").iterdir()) == []
