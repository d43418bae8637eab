"""Every input of the kinds that people reported, and every odd file, through the command: kept, or why not."""

import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modist_fast.models.resnet import visual_resnet
from modist_fast.run.export import export_backbone
from modist_pipelines.prepare.inputs import find_inputs
from tests.commands.launching import run_command, run_script

pytestmark = pytest.mark.slow

KEPT = {
    "odd/decord_corrupted.mp4": (85, 48),
    "odd/derived_gray.mkv": (60, 48),
    "odd/derived_tiny_24x18.mp4": (112, 48),
    "odd/derived_truncated.avi": (60, 48),
    "odd/derived_vfr.mp4": (113, 48),
    "odd/torchcodec_av1_video.mkv": (85, 48),
    "odd/torchcodec_h264_10bits.mp4": (48, 48),
    "odd/torchcodec_h265_10bits.mp4": (48, 48),
    "odd/torchcodec_nasa_13013.mp4": (85, 48),
    "reported/colon/12:30:05.mp4": (64, 48),
    "reported/mir_rot90_hflip.mp4": (48, 64),
    "reported/mir_vflip.mp4": (64, 48),
    "reported/nested/basketball/v_shooting_01/v_shooting_01_01.mp4": (64, 48),
    "reported/sar_16_9.mp4": (68, 48),
    "reported/suffixes/anim.apng": (64, 48),
    "reported/suffixes/raw.h264": (96, 48),
    "reported/suffixes/raw.m2t": (96, 48),
    "reported/suffixes/x.3g2": (96, 48),
    "reported/suffixes/x.m1v": (96, 48),
    "reported/suffixes/x.mpe": (96, 48),
    "reported/suffixes/x.qt": (96, 48),
    "reported/tiny.mp4": (64, 48),
    "reported/two_streams.mp4": (96, 48),
    "reported/vp8_resize.webm": (64, 48),
    # Copies, made here.
    "made/no suffix": (96, 48),
    "made/foreign.recording": (96, 48),
    "made/-i %03d [b]&;#,'\".mp4": (64, 48),
    "made/new\nline.mp4": (64, 48),
    r"made/latin\xfc.mp4": (64, 48),
}
QUARANTINED = {
    "odd/decord_unordered.mov": "too_short",
    "odd/decord_video_0.mov": "too_short",
    "odd/decord_video_180.mov": "too_short",
    "odd/decord_video_270.mov": "too_short",
    "odd/decord_video_90.mov": "too_short",
    "odd/derived_audio_only.mp4": "no_video_stream",
    "odd/derived_bytes_flipped.avi": "decode_error",
    "odd/derived_one_frame.mp4": "too_short",
    "odd/derived_static.mp4": "motionless",
    "odd/derived_text_named.mp4": "unreadable",
    "odd/derived_three_frames.mp4": "too_short",
    "odd/derived_truncated.mp4": "unreadable",
    "odd/derived_zero_length.mp4": "unreadable",
    "odd/torchcodec_h265_video.mp4": "too_short",
    "odd/torchcodec_nasa_13013.mp4.audio.mp3": "no_video_stream",
    "reported/midchange.ts": "changes_shape",
    "made/broken.mp4": "unreadable",
}
LISTS: dict[str, dict[str, str | None]] = {
    "action_col.csv": {"a.mp4": "x", "b.mp4": "y"},
    "case.csv": {"a.mp4": "2", "b.mp4": "3"},
    "coclr.csv": {"a.mp4": None, "b.mp4": None},
    "comma_name_find.txt": {"a.mp4": None, "com,ma.mp4": None},
    "double_space.csv": {"a.mp4": "3", "b.mp4": "4"},
    "dup_conflict.csv": {"a.mp4": None, "b.mp4": "z"},
    "find_list.txt": {"a.mp4": None, "sp ace.mp4": None},
    "hf_metadata_rev.csv": {"a.mp4": "x", "b.mp4": "y"},
    "kin.json": {"-AbCdEfGhIj.mp4": "playing guitar"},
    "kin_blank.csv": {"-AbCdEfGhIj.mp4": "playing guitar", "zzz.mp4": "x"},
    "list.jsonl": {"a.mp4": "x", "b.mp4": "y"},
    "longfield.csv": {"a.mp4": "x" * 200_000},
    "noext.csv": {"-AbCdEfGhIj.mp4": "0", "a.mp4": "1"},
    "space_path_spacesep.csv": {"a.mp4": "3", "sp ace.mp4": "4"},
    "ssv2_bom.json": {"1.webm": "x", "78687.webm": "Holding something next to something"},
    "three_cols_frames.txt": {"a.mp4": "3", "b.mp4": "4"},
    "ucf_mp4.txt": {"ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4": "ApplyEyeMakeup"},
    "webvid.csv": {"a.mp4": "A cat runs"},
    "win.csv": {"a.mp4": "y", "cls/k.mp4": "x"},
}


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all") / "videos"
    (folder / "made").mkdir(parents=True)
    for name in ("odd", "reported"):
        (folder / name).symlink_to(shared_data / name)
    tiny, plain = shared_data / "reported/tiny.mp4", shared_data / "reported/suffixes/x.qt"
    for name in ("-i %03d [b]&;#,'\".mp4", "new\nline.mp4", os.fsdecode(b"latin\xfc.mp4")):
        shutil.copy(tiny, folder / "made" / name)
    for name in ("no suffix", "foreign.recording"):
        shutil.copy(plain, folder / "made" / name)
    shutil.copy(plain, folder / "made/film.mp4.part")
    (folder / "made/notes.odt").write_bytes(b"PK\3\4")
    (folder / "made/broken.mp4").write_bytes(tiny.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("store") / "store"
    return out, run_script("prepare.py", folder, "--out", out, "--short-side", 48, "--label-depth", 1)


def test_exit_code_and_nothing_missing(folder: Path, prepared: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = prepared
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    index = pq.read_table(out / "index.parquet")
    quarantine = pq.read_table(out / "quarantine.parquet")
    assert set(index["video"].to_pylist()) == set(KEPT)
    assert set(quarantine["video"].to_pylist()) == set(QUARANTINED)
    assert all(quarantine["detail"].to_pylist())
    said = " ".join(done.stderr.split())
    for name in ("made/film.mp4.part", "made/notes.odt", "reported/README.md"):
        assert name in said, "what is left alone is named"


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, prepared: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    rows = {row["video"]: row for row in pq.read_table(prepared[0] / "index.parquet").to_pylist()}
    assert (rows[name]["width"], rows[name]["height"]) == KEPT[name]
    assert rows[name]["label"] == name.split("/")[0]


@pytest.mark.parametrize("name", QUARANTINED)
def test_quarantined(name: str, prepared: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    rows = {row["video"]: row["reason"] for row in pq.read_table(prepared[0] / "quarantine.parquet").to_pylist()}
    assert rows[name] == QUARANTINED[name]


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str, shared_data: Path, tmp_path: Path) -> None:
    for video in {"a.mp4", "b.mp4", "c.mp4", *LISTS[name]}:
        (tmp_path / video).parent.mkdir(exist_ok=True)
        (tmp_path / video).symlink_to(shared_data / "reported/tiny.mp4")
    inputs = find_inputs(shared_data / "reported/lists" / name, tmp_path, "auto", 0)
    assert inputs.labels == LISTS[name]
    assert [row["video"] for row in inputs.unusable] == (["x.mp4"] if name == "case.csv" else [])


def test_every_row_without_a_file_is_in_quarantine(shared_data: Path, tmp_path: Path) -> None:
    """And one that has come by the next call is taken up."""
    shutil.copy(shared_data / "reported/tiny.mp4", tmp_path / "a.mp4")
    gone = [f"{i}.mp4" for i in range(30)]
    (tmp_path / "list.csv").write_text("a.mp4,x\n" + "".join(f"{name},y\n" for name in gone))
    words = (tmp_path / "list.csv", "--out", tmp_path / "store", "--short-side", 32, "--workers", 1)
    assert run_script("prepare.py", *words).returncode == 0
    rows = pq.read_table(tmp_path / "store/quarantine.parquet").to_pylist()
    assert {row["video"]: row["reason"] for row in rows} == dict.fromkeys(gone, "missing")
    shutil.copy(shared_data / "reported/two_streams.mp4", tmp_path / gone[0])
    assert run_script("prepare.py", *words).returncode == 0
    assert pq.read_table(tmp_path / "store/index.parquet")["video"].to_pylist() == ["a.mp4", gone[0]]
    assert pq.read_table(tmp_path / "store/quarantine.parquet").num_rows == len(gone) - 1


def test_features_of_files_of_any_name(folder: Path, tmp_path: Path) -> None:
    card = {
        "arch": "r18",
        "width": 8,
        "num_frames": 4,
        "stride": 4,
        "crop_size": 32,
        "mean": [0.5] * 3,
        "std": [1.0] * 3,
    }
    export_backbone(visual_resnet("r18", 8), tmp_path / "b.safetensors", card)
    words = ("--backbone", tmp_path / "b.safetensors", "--out", tmp_path / "f.parquet", "--views.temporal", 1)
    done = run_command("features", folder / "made", *words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    names = set(pq.read_table(tmp_path / "f.parquet")["video"].to_pylist())
    assert names == {name.removeprefix("made/") for name in KEPT if name.startswith("made/")}
