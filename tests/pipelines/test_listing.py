"""Lists of videos as the field writes them."""

import json
import logging
from pathlib import Path

import pytest

from modist_pipelines.errors import DataError
from modist_pipelines.lists.listing import detect, read_listing


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,label\nx/1.mp4,run\ny/2 b.mp4,jump far\n"),
        ("a.csv", "label,video\nrun,x/1.mp4\njump far,y/2 b.mp4\n"),
        ("a.csv", 'x/1.mp4,run\n"y/2 b.mp4","jump far"\n'),
        ("a.tsv", "x/1.mp4\trun\r\ny/2 b.mp4\tjump far\r\n"),
        ("bom.csv", "\ufeffpath;label\nx/1.mp4;run\ny/2 b.mp4;jump far\n"),
    ],
)
def test_csv_and_tsv(tmp_path, name, text):
    touch(tmp_path, "x/1.mp4", "y/2 b.mp4")
    (tmp_path / name).write_text(text, encoding="utf-8")
    listing = read_listing(tmp_path / name, None)
    assert listing.labels == {"x/1.mp4": "run", "y/2 b.mp4": "jump far"}
    assert (listing.root, listing.videos) == (tmp_path, ["x/1.mp4", "y/2 b.mp4"])


def test_paths_alone_have_no_label(tmp_path):
    touch(tmp_path, "1.mp4")
    (tmp_path / "list.txt").write_text("1.mp4\n\n")
    assert read_listing(tmp_path / "list.txt", None).labels == {"1.mp4": None}


def test_space_separated_as_slowfast_writes_them(tmp_path):
    touch(tmp_path / "videos", "a.mp4", "b.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 17\nb.mp4 3\n")
    assert read_listing(tmp_path / "train.csv", tmp_path / "videos").labels == {"a.mp4": "17", "b.mp4": "3"}


@pytest.mark.parametrize("suffix", [" 1", ""])
def test_ucf101(tmp_path, suffix):
    name = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    touch(tmp_path / "videos", name)
    (tmp_path / "trainlist01.txt").write_text(f"{name}{suffix}\n")
    assert detect(tmp_path / "trainlist01.txt") == "ucf101"
    assert read_listing(tmp_path / "trainlist01.txt", tmp_path / "videos").labels == {name: "ApplyEyeMakeup"}


def test_hmdb51(tmp_path):
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "brush_hair_test_split1.txt").write_text("a (1).avi 1 \nb.avi 2 \nc.avi 0 \n")
    (splits / "wave_test_split1.txt").write_text("d.avi 1 \n")
    touch(tmp_path / "videos", "brush_hair/a (1).avi", "brush_hair/b.avi", "brush_hair/c.avi", "d.avi")
    listing = read_listing(splits, tmp_path / "videos")
    assert listing.labels == {"brush_hair/a (1).avi": "brush_hair", "brush_hair/b.avi": "brush_hair", "d.avi": "wave"}


def test_kinetics(tmp_path):
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "air drumming,-abc,5,15,train\nbowling,Q_1,0,10,train\nyoga,zz,1.0,11.0,train\n"
    )
    names = ("air_drumming/-abc_000005_000015.mp4", "Q_1_000000_000010.mkv", "train/yoga/zz_000001_000011.mp4")
    touch(tmp_path / "videos", *names)
    labels = read_listing(tmp_path / "train.csv", tmp_path / "videos").labels
    assert labels == dict(zip(names, ("air drumming", "bowling", "yoga"), strict=True))


def test_ssv2(tmp_path):
    rows = [{"id": "78687", "label": "holding potato", "template": "Holding [something] up"}, {"id": "5"}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    touch(tmp_path, "78687.webm", "5.mp4")
    assert read_listing(tmp_path / "train.json", None).labels == {"78687.webm": "Holding something up", "5.mp4": None}


def test_absent_videos_are_counted_and_named(tmp_path, caplog):
    touch(tmp_path, "1.mp4")
    (tmp_path / "list.csv").write_text("1.mp4,a\n2.mp4,a\n3.mp4,b\n")
    with caplog.at_level(logging.WARNING, "modist"):
        assert read_listing(tmp_path / "list.csv", None).videos == ["1.mp4"]
    assert "2 of 3 videos" in caplog.text
    assert "2.mp4, 3.mp4" in caplog.text


def test_no_video_of_a_list(tmp_path):
    (tmp_path / "list.csv").write_text("1.mp4,a\n")
    with pytest.raises(DataError, match=r"none of the 1 videos of .* first should be 1\.mp4 \(line 1\)\. .*--root"):
        read_listing(tmp_path / "list.csv", tmp_path)
    (tmp_path / "list.csv").write_text("")
    with pytest.raises(DataError, match="lists no video"):
        read_listing(tmp_path / "list.csv", tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match="Something-Something"):
        read_listing(tmp_path / "list.json", tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\x00\x01\x02\xff")
    with pytest.raises(DataError, match="not text"):
        read_listing(tmp_path / "x.bin", tmp_path)
