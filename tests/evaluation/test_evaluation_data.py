"""Labelled videos: lists as the field writes them, odd videos named and counted, leaks refused, subsets nested."""

import logging
import os
import shutil
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from clip_store import make_store
from made_videos import moving_pictures, write_video
from PIL import Image

from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import LabelledConfig, SplitConfig
from modist_fast.evaluation.data.labelled import LabelledVideos, open_labelled
from modist_fast.evaluation.data.splits import (
    Fold,
    counted,
    find_leaks,
    learnable,
    low_shot_subset,
    make_folds,
    refuse_leaks,
    refuse_unlearnable,
)
from modist_pipelines.store.reader import QUARANTINE_NAME
from modist_pipelines.store.writer import quarantine_table, write_parquet
from tests.evaluation.evaluation_sets import store_of_pictures, write_list

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LEAVE_OUT = SplitConfig(protocol="leave-one-group-out")


def opened(**options: object) -> LabelledVideos:
    return open_labelled(LabelledConfig(**options), 4, CPU)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Videos 0000.mp4 to 0007.mp4, no two alike."""
    make_store(tmp_path / "store", [5, 6, 7, 8, 9, 10, 11, 12])
    return tmp_path / "store"


def rows(num: int = 8) -> list[dict[str, object]]:
    return [
        {"path": f"{n:04d}.mp4", "label": "ab"[n % 2], "group": n // 2, "split": "train" if n < 6 else "test"}
        for n in range(num)
    ]


def test_a_list_beside_a_store(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    videos = opened(store=store, labels=write_list(tmp_path / "labels.csv", rows()[::-1]), where=("path=000[1-7].mp4",))
    assert videos.names == [f"{n:04d}.mp4" for n in range(1, 8)]
    assert videos.rows.tolist() == list(range(1, 8))
    assert [videos.classes[label] for label in videos.labels] == list("bababab")
    assert videos.groups == ["0", "1", "1", "2", "2", "3", "3"]
    assert [videos.info(video).num_frames for video in range(7)] == [6, 7, 8, 9, 10, 11, 12]
    assert not videos.odd
    assert "1 videos of" in caplog.text
    (fold,) = make_folds(SplitConfig(), videos)
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 1, 2, 3, 4], [5, 6])


def test_numbers_are_classes_in_the_order_of_numbers(store: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "l.csv", [row | {"class_id": 9 + n % 2} for n, row in enumerate(rows())])
    videos = opened(store=store, labels=listed, label_column="class_id")
    assert videos.classes == ["9", "10"]
    assert videos.labels.tolist() == [0, 1] * 4


def test_label_depth_and_lists_that_differ_from_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Layout of UCF11; and a list of .avi files with strokes of Windows, whose videos are .mp4."""
    for seed, name in enumerate(("run/v_run_01/a.mp4", "run/v_run_02/b.mp4", "walk/v_walk_01/c.mp4")):
        write_video(tmp_path / "v" / name, moving_pictures(20, 2, seed=seed))
    for depth, classes in ((0, ["v_run_01", "v_run_02", "v_walk_01"]), (1, ["run", "walk"])):
        assert opened(videos=tmp_path / "v", label_depth=depth).classes == classes
    (tmp_path / "list.tsv").write_text("run\\v_run_01\\a.avi\tx\nrun\\v_run_02\\b.avi\ty\n")
    with caplog.at_level(logging.INFO):
        videos = opened(videos=tmp_path / "v", labels=tmp_path / "list.tsv")
    assert videos.names == ["run/v_run_01/a.mp4", "run/v_run_02/b.mp4"]
    assert not videos.odd
    assert "a table with tabs" in caplog.text
    assert "2 videos of the list were found under another suffix" in caplog.text


def test_raw_frames_and_labels_beside_the_clips_of_an_archive(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        write_video(tmp_path / f"{name}.mp4", moving_pictures(20, 2, seed=seed))
        (tmp_path / f"{name}.cls").write_text(f"class {name}")
    (tmp_path / "v/frames").mkdir(parents=True)
    with tarfile.open(tmp_path / "v/s.tar", "w") as tar:
        for path in sorted(tmp_path.glob("?.*")):
            tar.add(path, path.name)
    for number, picture in enumerate(moving_pictures(20, 2)):
        Image.fromarray(picture).save(tmp_path / f"v/frames/{number:03d}.png")
    (tmp_path / "list.csv").write_text("path,label\nframes,x\ns.tar/a.mp4,y\n")
    assert opened(videos=tmp_path / "v").classes == ["class a", "class b"]
    for fps, num_frames in ((30.0, 5), (10.0, 15)):
        videos = opened(videos=tmp_path / "v", labels=tmp_path / "list.csv", frames_fps=fps)
        assert [videos.info(video).num_frames for video in range(2)] == [num_frames, 5]


def test_two_lists_are_a_split(store: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0000.mp4 3\n0001.mp4 5\n0004.mp4 3\n")
    (tmp_path / "test.txt").write_text("0006.mp4 5\n")
    videos = opened(store=store, train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt")
    (fold,) = make_folds(SplitConfig(), videos)
    assert [videos.names[video] for video in fold.train] == ["0000.mp4", "0001.mp4", "0004.mp4"]
    assert [videos.names[video] for video in fold.test] == ["0006.mp4"]


def test_hmdb51s_folder_of_splits(tmp_path: Path) -> None:
    for split in (1, 2):
        for label in ("climb", "punch"):
            lines = [f"{label}{n}.avi {(n + split) % 3}" for n in range(6)]
            (tmp_path / f"{label}_test_split{split}.txt").write_text("\n".join(lines) + "\n")
            for n in range(6):
                path = tmp_path / "videos" / label / f"{label}{n}.avi"
                write_video(path, moving_pictures(20, n + 1, seed=len(label)), codec="mpeg4")
    for split, train in ((1, [0, 3]), (2, [2, 5])):
        videos = opened(videos=tmp_path / "videos", labels=tmp_path, hmdb_split=split)
        (fold,) = make_folds(SplitConfig(), videos)
        assert [videos.names[video] for video in fold.train] == [
            f"{c}/{c}{n}.avi" for c in ("climb", "punch") for n in train
        ]
        assert len(fold.test) == 4
        assert videos.classes == ["climb", "punch"]


def test_ucf101s_groups_are_within_their_class(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "Archery" / "v_Archery_g08_c01.avi", moving_pictures(20, 2), codec="mpeg4")
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\nSurfing/v_Surfing_g08_c02.avi 2\n")
    videos = opened(videos=tmp_path / "v", labels=tmp_path / "trainlist01.txt")
    assert videos.groups == ["Archery g08", "Surfing g08"]
    assert videos.odd == {1: f"not in {tmp_path / 'v'}"}


def test_what_a_list_lacks_is_odd_where_tested_and_left_out_where_trained(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [{"path": "gone.mp4", "label": "a", "group": 0, "split": "train"}]
    more += [{"path": "lost.mp4", "label": "b", "group": 3, "split": "test"}]
    listed = write_list(tmp_path / "labels.csv", rows() + more)
    for option, num_test in (("wrong", 3), ("exclude", 2)):
        caplog.clear()
        videos = opened(store=store, labels=listed, odd_videos=option)
        assert {videos.names[video] for video in videos.odd} == {"gone.mp4", "lost.mp4"}
        for name in ("gone.mp4 (a)", "lost.mp4 (b)"):
            assert f"odd video: {name}: not in the store" in caplog.text
        (fold,) = counted(make_folds(SplitConfig(), videos), videos.odd, videos.when_tested)
        assert (len(fold.train), len(fold.test)) == (6, num_test)
        folds = counted(make_folds(LEAVE_OUT, videos), videos.odd, videos.when_tested)
        assert sum(len(fold.test) for fold in folds) == (10 if option == "wrong" else 8)


def test_classes_that_nothing_teaches_are_named_and_counted_as_asked(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = [row | ({"label": "unseen"} if row["split"] == "test" and i % 2 else {}) for i, row in enumerate(rows())]
    videos = opened(store=store, labels=write_list(tmp_path / "labels.csv", listed))
    (whole,) = folds = make_folds(SplitConfig(), videos)
    unseen = [video for video in whole.test.tolist() if videos.classes[videos.labels[video]] == "unseen"]
    assert 0 < len(unseen) < len(whole.test)
    for rule, tested in (("wrong", whole.test.tolist()), ("exclude", sorted({*whole.test.tolist()} - {*unseen}))):
        config = SplitConfig(odd_classes=rule)  # pyright: ignore[reportArgumentType]
        caplog.clear()
        assert refuse_unlearnable(config, folds, videos) == {whole.name: ["unseen"]}
        assert "no training video has 1 of the tested classes (unseen)" in caplog.text
        (fold,) = learnable(config, folds, videos)
        assert fold.test.tolist() == tested
    with pytest.raises(ConfigError, match="unseen"):
        refuse_unlearnable(SplitConfig(odd_classes="error"), folds, videos)
    only = [whole._replace(test=np.array(unseen))]
    with pytest.raises(ConfigError, match="leaves no test video"):
        learnable(SplitConfig(odd_classes="exclude"), only, videos)


@pytest.mark.parametrize("when_tested", ["wrong", "exclude"])
def test_odd_videos_are_left_out_of_the_folds_as_a_loop_leaves_them(when_tested: Literal["wrong", "exclude"]) -> None:
    folds = [Fold("a", np.arange(6), np.arange(6, 9)), Fold("b", np.arange(3, 9), np.arange(3))]
    odd = {1: "broken", 7: "short"}
    found = counted(folds, odd, when_tested)
    for before, after in zip(folds, found, strict=True):
        assert after.train.tolist() == [video for video in before.train.tolist() if video not in odd]
        kept = [video for video in before.test.tolist() if video not in odd or when_tested == "wrong"]
        assert after.test.tolist() == kept
    assert [len(fold.train) for fold in folds] == [6, 6], "as they were"
    both = counted(counted(folds, {1}, when_tested), odd, when_tested)
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in both] == [
        (fold.train.tolist(), fold.test.tolist()) for fold in found
    ]
    for more, part in (({6, 8}, "test part of a"), (set(range(6)), "training part of a"), (set(range(9)), "training")):
        with pytest.raises(ConfigError, match=rf"the {part}.* holds no video that can be used"):
            counted(folds, more | odd.keys(), when_tested)


def test_every_odd_file_is_named_with_its_reason(shared_data: Path, tmp_path: Path) -> None:
    """Broken, short and empty files and sound, beside two good videos."""
    for source in [*(shared_data / "odd").iterdir(), *sorted((shared_data / "weizmann" / "walk").iterdir())[:2]]:
        folder = tmp_path / "videos" / ("walk" if source.parent.name == "walk" else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder)
    videos = opened(videos=tmp_path / "videos")
    reasons = {Path(videos.names[video]).name: reason.split(":")[0] for video, reason in videos.odd.items()}
    assert reasons["derived_zero_length.mp4"] == reasons["derived_text_named.mp4"] == "unreadable"
    assert reasons["derived_audio_only.mp4"] == "no_video_stream"
    assert reasons["derived_three_frames.mp4"] == reasons["derived_one_frame.mp4"] == "too_short"
    assert not any(name.endswith(("_walk.avi", "_vfr.mp4", "_gray.mkv", "_tiny_24x18.mp4")) for name in reasons)
    assert len(videos) == 26  # nothing has gone missing


def test_odd_names_and_files_are_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a/12:30:05.mp4", "b/new\nline.mp4", "b/#1 %d.mp4"]
    for seed, name in enumerate(names):
        write_video(tmp_path / "v" / name, moving_pictures(20, 1, seed=seed))
    shutil.copy(tmp_path / "v" / names[0], tmp_path / "v/b" / os.fsdecode(b"\xfc.mp4"))
    (tmp_path / "v/a/list.mp4").write_text("ffconcat version 1.0\nfile 12:30:05.mp4\n")
    monkeypatch.chdir(tmp_path / "v")
    videos = opened(videos=Path())
    assert [videos.names[video] for video in videos.usable()] == sorted([*names, r"b/\xfc.mp4"])
    assert {videos.names[video]: reason for video, reason in videos.odd.items()} == {
        "a/list.mp4": "unreadable: a playlist: the files that it names are not opened",
    }
    listed = write_list(tmp_path / "l.csv", [{"path": name, "label": name[-5]} for name in names])
    assert opened(videos=Path(), labels=listed).columns["label"] == [name[-5] for name in sorted(names)]


def test_a_store_reports_its_quarantine(demo_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(demo_store, store)
    table = quarantine_table([{"video": "spin/bad.mp4", "reason": "too_short", "detail": "3 frames"}])
    write_parquet(store / QUARANTINE_NAME, table)
    videos = opened(store=store)
    place = videos.names.index("spin/bad.mp4")
    assert videos.odd == {place: "too_short: 3 frames"}
    assert videos.classes[videos.labels[place]] == "spin"
    assert len(videos) == 33


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Pass one of --store"),
        ({"labels": "absent.csv"}, "does not exist"),
        ({"train_list": "l.csv"}, "go together"),
        ({"labels": "l.csv", "train_list": "l.csv", "test_list": "l.csv"}, "the one or the others"),
        ({"labels": "l.csv", "where": ("split",)}, "COLUMN=PATTERN"),
        ({"labels": "l.csv", "where": ("scene=1",)}, "no column 'scene', only group, label, path, split"),
        ({"labels": "l.csv", "where": ("split=val",)}, "no video is left"),
        ({"labels": "twice.csv"}, "0001.mp4 twice"),
        ({"labels": "elsewhere.csv"}, "none of the 1 listed videos, such as x/1.mp4"),
        ({}, "Pass one of"),
    ],
)
def test_what_is_refused(store: Path, tmp_path: Path, options: dict, words: str) -> None:
    write_list(tmp_path / "l.csv", rows())
    write_list(tmp_path / "twice.csv", [*rows(), rows()[1] | {"label": "c"}])
    write_list(tmp_path / "elsewhere.csv", [{"path": "x/1.mp4", "label": "a"}])
    paths = {key: tmp_path / value for key, value in options.items() if key != "where"}
    given = {"store": store} if options else {}
    with pytest.raises(ConfigError, match=words):
        opened(**given, **{**options, **paths})


def test_a_store_without_labels_is_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match="no video has a label"):
        opened(store=store)


def test_leave_one_group_out_needs_groups(store: Path, tmp_path: Path) -> None:
    nameless = [row | {"group": "" if n == 3 else row["group"]} for n, row in enumerate(rows())]
    for listed, words in (
        ([{key: row[key] for key in ("path", "label")} for row in rows()], "needs a column of groups"),
        (nameless, "0003.mp4 has no group"),
        ([row | {"group": "one"} for row in rows()], "at least two groups"),
    ):
        videos = opened(store=store, labels=write_list(tmp_path / "l.csv", listed))
        with pytest.raises(ConfigError, match=words):
            make_folds(LEAVE_OUT, videos)


def test_each_group_is_tested_once_by_the_others(store: Path, tmp_path: Path) -> None:
    videos = opened(store=store, labels=write_list(tmp_path / "l.csv", rows()))
    folds = make_folds(LEAVE_OUT, videos)
    assert [fold.test.tolist() for fold in folds] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(sorted([*fold.train, *fold.test]) == list(range(8)) for fold in folds)
    assert not find_leaks(folds, videos)


def test_a_group_on_both_sides_is_found(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = [row | {"group": 3 if n == 2 else row["group"]} for n, row in enumerate(rows())]
    videos = opened(store=store, labels=write_list(tmp_path / "l.csv", listed))
    folds = make_folds(SplitConfig(), videos)
    with pytest.raises(ConfigError, match=r"leaks in 1 places.*group 3: 0002\.mp4 in training, 0007\.mp4 in the test"):
        refuse_leaks(SplitConfig(), folds, videos)
    assert len(refuse_leaks(SplitConfig(leaks="report"), folds, videos)) == 1
    assert "leak, split=train → split=test: group 3" in caplog.text


@pytest.mark.parametrize("kind", ["store", "videos"])
def test_a_copy_on_both_sides_is_found(tmp_path: Path, kind: str) -> None:
    """Under another name; a video that merely is as long is none."""
    folder = tmp_path / "videos"
    if kind == "store":
        store_of_pictures(folder, {"0.avi": 0, "1.avi": 1, "2.avi": 2, "3.avi": 3, "copy.avi": 1})
    else:
        for n in range(4):
            write_video(folder / f"{n}.avi", moving_pictures(20, n + 1), codec="mpeg4")
        shutil.copy(folder / "1.avi", folder / "copy.avi")
    names = ["0.avi", "1.avi", "2.avi", "3.avi", "copy.avi"]
    listed = [{"path": name, "label": n % 2, "split": "train" if n < 3 else "test"} for n, name in enumerate(names)]
    videos = opened(**{kind: folder}, labels=write_list(tmp_path / "l.csv", listed))
    with pytest.raises(ConfigError, match=r"leaks in 1 places.*1\.avi in training, copy\.avi in the test part"):
        refuse_leaks(SplitConfig(), make_folds(SplitConfig(), videos), videos)


def test_a_video_in_both_parts_is_refused(store: Path, tmp_path: Path) -> None:
    videos = opened(store=store, labels=write_list(tmp_path / "l.csv", rows()))
    with pytest.raises(ConfigError, match=r"0000\.mp4 is in the training and in the test part"):
        make_folds(SplitConfig(test_where=("label=a",)), videos)
    with pytest.raises(ConfigError, match=r"test part .* holds no video"):
        counted(make_folds(SplitConfig(test_where=("split=val",)), videos), videos.odd, "wrong")


SHARES = (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_low_shot_subsets_are_balanced_and_nested(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(101), random.integers(70, 121, 101))
    labels = random.permutation(np.concatenate([labels, labels]))
    train = np.flatnonzero(random.random(len(labels)) < 0.5)
    before: set[int] = set()
    for share in SHARES:
        chosen = low_shot_subset(train, labels, share, seed)
        assert len(set(chosen.tolist())) == len(chosen)
        assert before <= set(chosen.tolist()) <= set(train.tolist())
        before = set(chosen.tolist())
        for label in range(101):
            num = int((labels[train] == label).sum())
            assert int((labels[chosen] == label).sum()) == max(1, round(share * num))
    assert before == set(train.tolist())
    one = low_shot_subset(train, labels, 0.01, seed)
    assert len(one) == 101  # the paper's 1 % of UCF101 is one a class
    assert low_shot_subset(train, labels, 0.2, seed).tolist() == low_shot_subset(train, labels, 0.2, seed).tolist()
    assert set(one.tolist()) != set(low_shot_subset(train, labels, 0.01, seed + 1).tolist())
