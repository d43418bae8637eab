"""Lists in the dialects that people have: read right, or refused with line and column; never wrongly in silence."""

import json
import logging
import os
from pathlib import Path

import pytest

from modist_pipelines.errors import DataError
from modist_pipelines.lists.listing import read_entries, read_listing
from modist_pipelines.prepare.inputs import find_inputs

FILES = (
    *("a.mp4", "b.mp4", "c.mp4", "sp ace.mp4", "com,ma.mp4", "se;mi.mp4", "cls/k.mp4", "cls/l.mp4", "nest/deep/m.mp4"),
    *("-AbCdEfGhIj_000059_000069.mp4", "zzz.mp4", "78687.webm", "v_Q1.mkv", "p/7.mp4", "Run/v_Run_g01_c01.mp4"),
    *("café.mp4", "視頻.mp4", 'quo"te.mp4', "tab\there.mp4", "x/same.mp4", "y/same.mp4", "12:30:05.mp4", "100 %d.mp4"),
)
KINETICS = "label,youtube_id,time_start,time_end,split\n"
ACTIVITY = {
    "database": {"Q1": {"subset": "training", "annotations": [{"label": "jump", "segment": [0, 1]}], "url": ""}}
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("listed") / "videos"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


READ_RIGHT: dict[str, tuple[str, dict[str, str | None]]] = {
    # separators and quotes
    "commas": ("a.mp4,x\nb.mp4,y z\n", {"a.mp4": "x", "b.mp4": "y z"}),
    "tabs have no quotes": ('a.mp4\t"x" y\nb.mp4\t"z\n', {"a.mp4": '"x" y', "b.mp4": '"z'}),
    "semicolons": ("a.mp4;x, y\nb.mp4;z\n", {"a.mp4": "x, y", "b.mp4": "z"}),
    "bars": ("a.mp4|x\nb.mp4|z\n", {"a.mp4": "x", "b.mp4": "z"}),
    "several spaces": ("a.mp4   3\nb.mp4 4\n", {"a.mp4": "3", "b.mp4": "4"}),
    "a space in a path": ("a.mp4 3\nsp ace.mp4 4\n", {"a.mp4": "3", "sp ace.mp4": "4"}),
    "a space in paths alone": ("./sp ace.mp4\n./a.mp4\n", {"sp ace.mp4": None, "a.mp4": None}),
    "a space in every path": ("./sp ace.mp4\n", {"sp ace.mp4": None}),
    "a quoted path": ('"sp ace.mp4" 4\na.mp4 3\n', {"sp ace.mp4": "4", "a.mp4": "3"}),
    "words of a label": (
        "a.mp4 playing guitar\nb.mp4 air drumming\n",
        {"a.mp4": "playing guitar", "b.mp4": "air drumming"},
    ),
    "a comma in paths alone": ("./com,ma.mp4\n./a.mp4\n", {"com,ma.mp4": None, "a.mp4": None}),
    "a comma in a path": ("com,ma.mp4,3\na.mp4,4\n", {"com,ma.mp4": "3", "a.mp4": "4"}),
    "a comma in every path": ("com,ma.mp4,3\n", {"com,ma.mp4": "3"}),
    "a semicolon in a path": ("se;mi.mp4;3\na.mp4;4\n", {"se;mi.mp4": "3", "a.mp4": "4"}),
    "a semicolon in a path of commas": ("se;mi.mp4,3\n", {"se;mi.mp4": "3"}),
    "a comma in a caption": (
        "path,caption\na.mp4,A cat, it runs\nb.mp4,x\n",
        {"a.mp4": "A cat, it runs", "b.mp4": "x"},
    ),
    "quoted as in RFC 4180": ('path,label\n"com,ma.mp4","say ""x"""\n', {"com,ma.mp4": 'say "x"'}),
    "a line end in a caption": ('path,caption\na.mp4,"one\ntwo"\nb.mp4,x\n', {"a.mp4": "one\ntwo", "b.mp4": "x"}),
    "a quote in a name": ('quo"te.mp4,x\na.mp4,y\n', {'quo"te.mp4': "x", "a.mp4": "y"}),
    "names like addresses": ("12:30:05.mp4 1\n100 %d.mp4 2\n", {"12:30:05.mp4": "1", "100 %d.mp4": "2"}),
    "old Mac line ends": ("a.mp4,x\rb.mp4,y\r", {"a.mp4": "x", "b.mp4": "y"}),
    "label first": ("x,a.mp4\ny,b.mp4\n", {"a.mp4": "x", "b.mp4": "y"}),
    # headers
    **{
        f"header {name}": (f"{name},{label}\na.mp4,x\nb.mp4,y\n", {"a.mp4": "x", "b.mp4": "y"})
        for name, label in zip(
            ("path", "file", "file_path", "filename", "name", "video", "video_path", "clip", "Video Name", "VIDEO-ID"),
            ("label", "action", "class", "caption", "category", "Label", "class_name", "text", "label_id", "verb"),
            strict=True,
        )
    },
    "the other way round": ("label,file_name\nx,a.mp4\ny,b.mp4\n", {"a.mp4": "x", "b.mp4": "y"}),
    "an id before the path": ("id,name,file\n1,x,a.mp4\n2,y,b.mp4\n", {"a.mp4": "x", "b.mp4": "y"}),
    "a header nobody knows": ("movie,mood\na.mp4,x\nb.mp4,y\n", {"a.mp4": "x", "b.mp4": "y"}),
    "with spaces": ("path label\na.mp4 3\nsp ace.mp4 4\n", {"a.mp4": "3", "sp ace.mp4": "4"}),
    "behind a sharp": ("#path,label\na.mp4,x\n", {"a.mp4": "x"}),
    "one column": ("filename\na.mp4\nb.mp4\n", {"a.mp4": None, "b.mp4": None}),
    # columns of numbers
    "path frames label": ("a.mp4 90 3\nb.mp4 90 4\n", {"a.mp4": "3", "b.mp4": "4"}),
    "path start end label": ("a.mp4 10 90 3\nb.mp4 0 50 4\n", {"a.mp4": "3", "b.mp4": "4"}),
    "seconds": ("a.mp4,0.5,2.5,run\nb.mp4,1.0,3.5,walk\n", {"a.mp4": "run", "b.mp4": "walk"}),
    "VideoMAE": ("a.mp4 0 -1\nb.mp4 0 -1\n", {"a.mp4": None, "b.mp4": None}),
    "CoCLR": ("cls/k.mp4,164\ncls/l.mp4,89\n", {"cls/k.mp4": None, "cls/l.mp4": None}),
    "many classes": ("a.mp4,17\nb.mp4,101\nc.mp4,3\n", {"a.mp4": "17", "b.mp4": "101", "c.mp4": "3"}),
    "whole numbers of pandas": ("a.mp4,1.0\nb.mp4,2.0\n", {"a.mp4": "1.0", "b.mp4": "2.0"}),
    "an index of pandas": (",path,label\n0,a.mp4,x\n1,b.mp4,y\n", {"a.mp4": "x", "b.mp4": "y"}),
    "Moments": ("a.mp4,adult+singing,2,1\nb.mp4,running,3,0\n", {"a.mp4": "adult+singing", "b.mp4": "running"}),
    "unlabelled parts": ("a.mp4 3\nb.mp4 -1\n", {"a.mp4": "3", "b.mp4": None}),
    "a split": ("a.mp4,x,train\nb.mp4,y,test\n", {"a.mp4": "x", "b.mp4": "y"}),
    # paths
    "Windows": ("cls\\k.mp4,x\n.\\a.mp4,y\n", {"cls/k.mp4": "x", "a.mp4": "y"}),
    "a drive": ("C:\\data\\cls\\k.mp4,x\nC:\\data\\a.mp4,y\n", {"cls/k.mp4": "x", "a.mp4": "y"}),
    "absolute of elsewhere": ("/gone/cls/k.mp4 1\n/gone/a.mp4 2\n", {"cls/k.mp4": "1", "a.mp4": "2"}),
    "below another folder": ("set/v/cls/k.mp4 1\nset/v/a.mp4 2\n", {"cls/k.mp4": "1", "a.mp4": "2"}),
    "without folders": ("k.mp4 1\nm.mp4 2\n", {"cls/k.mp4": "1", "nest/deep/m.mp4": "2"}),
    "ids": ("zzz 1\na 2\n", {"zzz.mp4": "1", "a.mp4": "2"}),
    "another suffix": ("a.avi,x\ncls/k.AVI,y\n", {"a.mp4": "x", "cls/k.mp4": "y"}),
    "other capitals": ("A.MP4,x\nCls/K.mp4,y\n", {"a.mp4": "x", "cls/k.mp4": "y"}),
    "decomposed Unicode": ("cafe\u0301.mp4,x\n", {"café.mp4": "x"}),
    # data sets
    "Kinetics": (KINETICS + "air drum,-AbCdEfGhIj,59,69,train\n", {"-AbCdEfGhIj_000059_000069.mp4": "air drum"}),
    "Kinetics with blanks": (KINETICS + "x,zzz,,,train\n", {"zzz.mp4": "x"}),
    "UCF101": ("Run/v_Run_g01_c01.avi 1\n", {"Run/v_Run_g01_c01.mp4": "Run"}),
    "WebVid": ("videoid,contentUrl,duration,page_dir,name\n7,u,PT1S,p,A cat\n", {"p/7.mp4": "A cat"}),
    "JSON lines": ('{"path": "a.mp4", "label": "x"}\n\n{"path": "b.mp4", "label": 2}\n', {"a.mp4": "x", "b.mp4": "2"}),
    "Kinetics JSON": (
        json.dumps(
            {"-AbCdEfGhIj": {"annotations": {"label": "g", "segment": [59.0, 69.0]}, "subset": "train", "url": ""}}
        ),
        {"-AbCdEfGhIj_000059_000069.mp4": "g"},
    ),
    "ActivityNet": (json.dumps(ACTIVITY), {"v_Q1.mkv": "jump"}),
    "Something-Something": (
        "\ufeff" + json.dumps([{"id": "78687", "label": "holding potato", "template": "Holding [something]"}]),
        {"78687.webm": "Holding something"},
    ),
    "an object of paths": (json.dumps({"a.mp4": "x", "b.mp4": 3}), {"a.mp4": "x", "b.mp4": "3"}),
    "pairs": (json.dumps([["a.mp4", "x"], ["b.mp4", "y"]]), {"a.mp4": "x", "b.mp4": "y"}),
    "rows in an object": (json.dumps({"videos": [{"video": "a.mp4", "category": 9}]}), {"a.mp4": "9"}),
}


@pytest.mark.parametrize("name", READ_RIGHT)
def test_read_right(name: str, root: Path, tmp_path: Path) -> None:
    text, labels = READ_RIGHT[name]
    (tmp_path / "list").write_text(text, encoding="utf-8", newline="")
    listing = read_listing(tmp_path / "list", root)
    assert listing.labels == labels
    assert listing.absent == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
def test_encodings_of_chinese(encoding: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("視頻.mp4,跑步\na.mp4,跳\n".encode(encoding))
    assert read_listing(tmp_path / "list.csv", root).labels == {"視頻.mp4": "跑步", "a.mp4": "跳"}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "utf-16"])
def test_encodings_of_the_west(encoding: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.csv").write_bytes("café.mp4,Ménage à trois\na.mp4,Übung\n".encode(encoding))
    with caplog.at_level(logging.INFO):
        labels = read_listing(tmp_path / "list.csv", root).labels
    assert labels == {"café.mp4": "Ménage à trois", "a.mp4": "Übung"}
    assert (", in " in caplog.text) == (encoding != "utf-8"), "an encoding that was guessed is said"


REFUSED = {
    "an empty path": ("path,label\na.mp4,x\n,y\n", r"line 3, column 1"),
    "too many columns": (
        "label,path,split\nx,a.mp4,train\nx,b.mp4,train,more,still\n",
        r"line 3, column 4.*double quotes",
    ),
    "quotes that do not end": ('path,label\na.mp4,x\nb.mp4,"y\n', r"line 3: the quotes"),
    "a time that is none": (KINETICS + "x,zzz,1:30,2,train\n", r"line 2, column 3 \(time_start\): '1:30'"),
    "broken JSON": ('[{"path": "a.mp4",}]', r"line 1, column \d+: not JSON"),
    "a broken line of JSON": ('{"path": "a.mp4"}\n{"path": }\n', r"line 2, column 10: not JSON"),
    "JSON without a path": ('[{"path": "a.mp4"}, {"frames": 3}]', r"row 2 of the JSON"),
    "deep JSON": ("[" * 100_000, r"nested too deeply"),
    "a picture": ("\x89PNG\x00\x01", r"line 1, column \d+ holds the control sign"),
    "blank": ("\n\n  \n", r"lists no video"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_line_and_column(name: str, root: Path, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    (tmp_path / "list").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        read_listing(tmp_path / "list", root)
    assert str(tmp_path / "list") in str(refused.value)
    assert "\n" not in str(refused.value), "one paragraph"


def test_what_is_said(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.csv").write_text("clip,frames,action\na.mp4,90,x\na.mp4,90,y\nb.mp4,12,\nz.mp4,9,x\nw.mp4,9,x\n")
    with caplog.at_level(logging.INFO):
        listing = read_listing(tmp_path / "list.csv", root)
    for said in (
        "5 lines, read as a table with commas, with header: path from column 1 'clip'; label from column 3 'action'; "
        "not used: column 2 'frames'; 2 classes",
        "1 of 5 lines have no label",
        "the rows of a.mp4 disagree (line 2 'x', line 3 'y')",
        "2 of 5 videos",
    ):
        assert said in caplog.text
    assert listing.labels == {"a.mp4": None, "b.mp4": None}
    assert [(row["video"], row["reason"]) for row in listing.absent] == [("z.mp4", "missing"), ("w.mp4", "missing")]


def test_what_is_meant_is_not_guessed(root: Path, tmp_path: Path) -> None:
    """A file that another row names is not taken for a row like it, nor one of two that it may be."""
    (tmp_path / "list.csv").write_text("a.mp4,x\na.avi,y\nsame.mp4,z\nnest/a.mp4,q\n")
    listing = read_listing(tmp_path / "list.csv", root)
    assert listing.labels == {"a.mp4": "x"}
    details = {row["video"]: row["detail"] for row in listing.absent}
    assert "another row" in details["a.avi"]
    assert all(name in details["same.mp4"] for name in ("x/same.mp4", "y/same.mp4"))
    assert details["nest/a.mp4"] == "line 4: the list names it, and it is not there"


def test_absolute_paths_bring_their_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{root}/cls/k.mp4,x\n{root}/a.mp4,y\n")
    listing = read_listing(tmp_path / "list.csv", None)
    assert (listing.root, listing.labels) == (root, {"cls/k.mp4": "x", "a.mp4": "y"})


def test_lists_without_labels_take_the_folders(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("nest/deep/m.mp4,164\ncls/k.mp4,89\n")
    for depth, label in ((0, "deep"), (1, "nest")):
        inputs = find_inputs(tmp_path / "list.csv", root, "auto", depth)
        assert inputs.labels == {"nest/deep/m.mp4": label, "cls/k.mp4": "cls"}


def test_label_depth(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert find_inputs(root, None, "auto", 0).labels is None
    assert "--label-depth takes another (1: 6 classes, 2: 1 classes)" in caplog.text
    labels = find_inputs(root, None, "auto", 1).labels
    assert labels is not None
    assert (labels["nest/deep/m.mp4"], labels["cls/k.mp4"], labels["a.mp4"]) == ("nest", "cls", None)
    assert labels.keys() == set(FILES)


def test_folders_that_cannot_be_listed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "shut").mkdir()
    (tmp_path / "open/a.mp4").touch()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    inputs = find_inputs(tmp_path, None, "auto", 0)
    assert inputs.videos == ["open/a.mp4"]
    detail = "it cannot be listed (Permission denied)"
    assert inputs.unusable == [{"video": "shut/", "reason": "unlisted", "detail": detail}]


def test_a_list_of_many_that_are_gone_is_read_in_no_time(root: Path, tmp_path: Path) -> None:
    rows = "".join(f"gone,{i:011d},0,10,train\n" for i in range(3000))
    (tmp_path / "train.csv").write_text(KINETICS + rows + "air,-AbCdEfGhIj,59,69,train\n")
    listing = read_listing(tmp_path / "train.csv", root)
    assert listing.videos == ["-AbCdEfGhIj_000059_000069.mp4"]
    assert len(listing.absent) == 3000


def test_the_columns_of_a_header_are_kept_for_evaluation(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("Path,Label,Actor,split\na.mp4,x,eli,train\n")
    (entry,) = read_entries(tmp_path / "list.csv")
    assert entry.columns == {"path": "a.mp4", "label": "x", "actor": "eli", "split": "train"}
