"""Folders of frames, and videos and frames in tar and zip: read where they are, as the same video in a file is."""

import io
import logging
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures, numbered_picture, read_number, write_video

from modist_pipelines.errors import DataError
from modist_pipelines.lists.listing import read_listing
from modist_pipelines.prepare.inputs import find_inputs
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store
from modist_pipelines.video.discovery import discover_videos, folder_label
from modist_pipelines.video.frame_folders import frames_in
from modist_pipelines.video.opener import open_bytes, status
from modist_pipelines.video.raw import RawVideos

pytestmark = pytest.mark.slow

NUM = 24


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        ([f"img_{i:05d}.jpg" for i in range(1, 20)], 19),
        ([f"frame_{i:06d}.png" for i in range(20)], 20),
        ([f"{i:06d}.jpg" for i in range(1, 20)], 19),  # Something-Something v2
        ([f"46GP8-{i:06d}.jpg" for i in range(1, 20)], 19),  # Charades
        ([f"-5KQ66BBWC4_{i:06d}.JPG" for i in range(1, 20)], 19),  # AVA
        ([f"frame{i}.jpg" for i in range(8, 13)], 5),
        # TSN: flow beside the frames
        ([f"{kind}_{i:05d}.jpg" for kind in ("img", "flow_x", "flow_y", "x", "y") for i in range(1, 20)], 19),
        ([f"IMG_{i}.jpg" for i in (3, 88, 1207, 4001, 9000)], 0),  # photographs
        (["a1.jpg", "b2.jpg", "c3.jpg", "d4.jpg", "e5.jpg"], 0),
        (["1.jpg", "2.jpg"], 0),
    ],
)
def test_which_pictures_are_frames(names: list[str], frames: int) -> None:
    found = frames_in(reversed(names))
    assert len(found) == frames
    assert found == names[:frames], "in the order of their numbers"


def write_frames(folder: Path, name: Callable[[int], str], pictures: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start=1):
        cv2.imwrite(str(folder / name(number)), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def make_corpus(root: Path) -> None:
    """The same numbers as files, frames and members, and what is to be left alone."""
    pictures = [numbered_picture(8 + number) for number in range(NUM)]
    write_video(root / "run/file.mp4", pictures)
    write_frames(root / "run/jpg", lambda i: f"img_{i:05d}.jpg", pictures)
    write_frames(root / "run/jpg", lambda i: f"flow_x_{i:05d}.jpg", pictures)
    write_frames(root / "walk/png", lambda i: f"frame_{i:06d}.png", pictures)
    write_frames(root / "walk/photos", lambda i: f"IMG_{i * 100}.jpg", pictures[:6])
    video = (root / "run/file.mp4").read_bytes()
    frames = {path.name: path.read_bytes() for path in (root / "run/jpg").glob("img*")}
    with tarfile.open(root / "shards.tar", "w") as tar:
        members = {"./000.mp4": video, "000.json": b"{}", "../out.mp4": video, "/abs.mp4": video}
        members |= {f"fold/{name}": data for name, data in frames.items()}
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(root / "run/file.mp4")
        tar.addfile(link)
    with zipfile.ZipFile(root / "packed.zip", "w") as zipped:
        zipped.writestr("stored.mp4", video, zipfile.ZIP_STORED)
        zipped.writestr("deep/er/deflated.mp4", video, zipfile.ZIP_DEFLATED)
        zipped.writestr("../../out.mp4", video)
        zipped.writestr("notes.txt", "no video")
    (root / "broken.zip").write_bytes(b"PK\3\4 and then nothing")


NAMES = {
    "packed.zip/deep/er/deflated.mp4": "er",
    "packed.zip/stored.mp4": None,
    "run/file.mp4": "run",
    "run/jpg": "run",
    "shards.tar/000.mp4": None,
    "shards.tar/fold": None,
    "walk/png": "walk",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root)
    return root


def test_what_is_found(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos, unusable = discover_videos(corpus)
    assert videos == sorted(NAMES)
    assert {video: folder_label(video) for video in videos} == NAMES
    assert [(row["video"], row["reason"]) for row in unusable] == [("broken.zip/", "unlisted")]
    assert "broken.zip/: it cannot be listed (an archive that cannot be read" in caplog.text


def test_an_archive_alone(corpus: Path) -> None:
    inputs = find_inputs(corpus / "packed.zip", None, "auto", 0)
    assert inputs.root == corpus
    assert inputs.labels == {name: label for name, label in NAMES.items() if name.startswith("packed.zip/")}
    with pytest.raises(DataError, match=r"broken\.zip holds no video: .* such as broken\.zip/"):
        find_inputs(corpus / "broken.zip", None, "auto", 0)
    with pytest.raises(DataError, match=r"file\.mp4 is a video: give the folder"):
        find_inputs(corpus / "run/file.mp4", None, "auto", 0)


def test_labels_beside_the_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """WebDataset's: a class, an object with one, a caption; broken ones, and none, leave the folder's name."""
    video = write_video(tmp_path / "clip.mp4", moving_pictures(NUM, 3)).read_bytes()
    beside = {
        "0.cls": b"7\n",
        "1.json": b'{"key": "1", "Label": "run", "text": "someone"}',
        "2.txt": "laufen über".encode(),
        "3.cls": b"5",
        "3.txt": b"not this",
        "4.json": b"{broken",
        "5.json": b'{"fps": 30}',
        "a/6.cls": b"\xff\xfe",
        "a/7.cls": b"9",
        "8.json": b"4",
    }
    (tmp_path / "in/jump").mkdir(parents=True)
    with tarfile.open(tmp_path / "in/jump/s.tar", "w") as tar:
        clips = {f"{'a/' * (number in (6, 7))}{number}.left.mp4": video for number in range(9)}
        for name, data in (beside | clips).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "in/jump/t.tar.gz").write_bytes(b"\x1f\x8b")
    wanted = ["7", "run", "laufen über", "5", "jump", "jump", "a", "9", "4"]
    caplog.set_level(logging.INFO, "modist")
    inputs = find_inputs(tmp_path / "in", None, "auto", 0)
    assert inputs.labels is not None
    assert {int(name.split("/")[-1][0]): label for name, label in inputs.labels.items()} == dict(enumerate(wanted))
    assert "6 of 9 videos have labels beside them in their archives (.cls, .json, .txt): 6 classes" in caplog.text
    assert "2 files beside clips hold no label that can be read, such as s.tar/4.json" in caplog.text
    assert [row["video"] for row in inputs.unusable] == ["jump/t.tar.gz/"]
    assert "unpack it to a .tar, with gunzip" in inputs.unusable[0]["detail"]
    with pytest.raises(DataError, match=r"t\.tar\.gz is a compressed tar: to reach one clip"):
        find_inputs(tmp_path / "in/jump/t.tar.gz", None, "auto", 0)
    by_folder = find_inputs(tmp_path / "in", None, "auto", 1).labels
    assert by_folder is not None
    assert set(by_folder.values()) == {"jump"}
    (tmp_path / "list.txt").write_text("jump/s.tar/0.left.mp4\njump/s.tar/5.left.mp4\n")
    listed = find_inputs(tmp_path / "list.txt", tmp_path / "in", "auto", 0)
    assert listed.labels == {"jump/s.tar/0.left.mp4": "7", "jump/s.tar/5.left.mp4": "jump"}
    config = PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=1, motion_inputs=())
    prepare(config, prepare_parts.opencv_edges)
    table = pq.read_table(tmp_path / "out/index.parquet")
    assert dict(zip(table["video"].to_pylist(), table["label"].to_pylist(), strict=True)) == inputs.labels


def test_a_store_of_them(corpus: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    config = PrepareConfig(corpus, tmp_path / "store", short_side=64, workers=2, motion_inputs=(), grid=1)
    prepare(config, prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "store")
    assert list(store.videos) == sorted(NAMES)
    assert {label or None for label in store.labels} == set(NAMES.values())
    for row in range(store.num_videos):
        jpegs = store.read_frames(row, "rgb", range(NUM))
        pictures = [cv2.imdecode(jpeg, cv2.IMREAD_COLOR) for jpeg in jpegs]
        numbers = [read_number(picture) for picture in pictures if picture is not None]
        assert numbers == list(range(8, 8 + NUM)), store.videos[row]
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == before, "nothing is unpacked"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_frames_fps(tmp_path: Path) -> None:
    write_frames(tmp_path / "in/a/vid", lambda i: f"{i:06d}.jpg", moving_pictures(NUM, 3))
    config = PrepareConfig(
        tmp_path / "in", tmp_path / "out", short_side=32, workers=1, motion_inputs=(), frames_fps=12.0
    )
    prepare(config, prepare_parts.opencv_edges)
    (row,) = pq.read_table(tmp_path / "out/index.parquet").to_pylist()
    assert (row["video"], row["source_fps"], row["num_source_frames"]) == ("a/vid", 12.0, NUM)
    assert row["num_frames"] == NUM * 30 / 12 / 4
    assert Store.open(tmp_path / "out").meta.frames_fps == 12.0


@pytest.mark.parametrize(
    ("suffix", "bad"),
    [
        *(("jpg", bad) for bad in (b"", b"no picture at all", b"\xff\xd8\xff\xe0 the head of one")),
        *((suffix, None) for suffix in ("png", "bmp", "webp")),
    ],
)
def test_pictures_that_are_none_are_noted(suffix: str, bad: bytes | None, tmp_path: Path) -> None:
    """Whether they are something else or broken off, they cost themselves and none behind them."""
    write_frames(tmp_path / "in/some", lambda i: f"{i:06d}.{suffix}", moving_pictures(NUM, 3))
    write_frames(tmp_path / "in/most", lambda i: f"{i:06d}.{suffix}", moving_pictures(NUM, 3))
    for video, broken in (("some", (3, 9)), ("most", range(1, 18))):
        for number in broken:
            path = tmp_path / f"in/{video}/{number:06d}.{suffix}"
            path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 2] if bad is None else bad)
    config = PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=1, motion_inputs=())
    prepare(config, prepare_parts.opencv_edges)
    (row,) = pq.read_table(tmp_path / "out/index.parquet").to_pylist()
    assert row["video"] == "some"
    assert "2 damaged" in row["note"]
    (out,) = pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()
    assert (out["video"], out["reason"]) == ("most", "decode_error")


def test_frames_that_are_replaced_are_made_anew(tmp_path: Path) -> None:
    def prepared() -> dict[str, int]:
        config = PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=1, motion_inputs=())
        prepare(config, prepare_parts.opencv_edges)
        table = pq.read_table(tmp_path / "out/index.parquet")
        return dict(zip(table["video"].to_pylist(), table["shard"].to_pylist(), strict=True))

    for name in ("v1", "v2"):
        write_frames(tmp_path / "in" / name, lambda i: f"{i:06d}.png", moving_pictures(NUM, 3))
    before = prepared()
    assert prepared() == before
    write_frames(tmp_path / "in/v2", lambda i: f"{i:06d}.png", moving_pictures(NUM + 1, 2))
    after = prepared()
    assert after["v1"] == before["v1"]
    assert after["v2"] not in before.values()


def test_raw_source(corpus: Path) -> None:
    source = RawVideos(corpus)
    assert list(source.videos) == sorted(NAMES)
    for row in range(source.num_videos):
        picture = source.read(row, {"rgb": [2]}).frames["rgb"][0]
        assert read_number(picture) == 16, source.videos[row]
        assert source.info(row).num_frames == NUM / 4


def test_raw_frames_fps(tmp_path: Path) -> None:
    """At 12 a second the frame on show after half a second is the seventh."""
    write_frames(tmp_path / "vid", lambda i: f"{i:06d}.png", [numbered_picture(number) for number in range(NUM)])
    for fps, at_half in ((30.0, 15), (12.0, 6)):
        source = RawVideos(tmp_path, grid=5, frames_fps=fps)
        assert source.info(0).num_frames == round(NUM * 30 / fps / 5 + 0.3)
        picture = source.read(0, {"rgb": [3]}).frames["rgb"][0]
        assert read_number(picture) == at_half
    assert RawVideos(tmp_path).fingerprint() != RawVideos(tmp_path, frames_fps=12.0).fingerprint()


def test_lists_name_them(corpus: Path, tmp_path: Path) -> None:
    """mmaction's lists of raw frames, and members of archives."""
    (tmp_path / "list.txt").write_text(
        f"run/jpg {NUM} 3\nwalk/png {NUM} 4\nshards.tar/000.mp4 {NUM} 5\nwalk/none 3 4\n"
    )
    listing = read_listing(tmp_path / "list.txt", corpus)
    assert listing.labels == {"run/jpg": "3", "walk/png": "4", "shards.tar/000.mp4": "5"}
    assert [row["video"] for row in listing.absent] == ["walk/none"]


def test_no_name_of_an_archive_leads_out_of_it(corpus: Path) -> None:
    for name in ("../out.mp4", "link.mp4", "abs.mp4", "fold/../../run/file.mp4", "000.mp4/x"):
        with pytest.raises(OSError, match=r"[Nn]o such file|Not a directory"):
            open_bytes(corpus / "shards.tar" / name)


def test_a_member_is_read_from_any_place_on(corpus: Path) -> None:
    whole = (corpus / "run/file.mp4").read_bytes()
    for name in ("shards.tar/000.mp4", "packed.zip/stored.mp4", "packed.zip/deep/er/deflated.mp4"):
        assert status(corpus / name).num_bytes == len(whole)
        with open_bytes(corpus / name).file as file:  # type: ignore[union-attr]
            assert file.read() == whole
            file.seek(-100, os.SEEK_END)
            assert file.read(50) == whole[-100:-50]
            assert file.seek(10) == 10
            assert file.read(5) == whole[10:15]
