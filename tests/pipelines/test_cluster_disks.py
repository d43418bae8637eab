"""File systems of clusters: without locks, without a sync of folders, of several mounts, and full."""

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prepare_parts
import pytest
from made_videos import moving_pictures, write_video

from modist_pipelines.disk import durable, lock
from modist_pipelines.errors import DataError
from modist_pipelines.prepare.motion import motion_scales
from modist_pipelines.prepare.partial import PartialStore
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker, ShardTask
from modist_pipelines.store import writer
from modist_pipelines.store.reader import Store, StoreMeta
from tests.commands.launching import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "_BEAT", 0.02)
    monkeypatch.setattr(lock, "_WATCH", 2.0)


def refuse_folders(number: int) -> Callable[[int], None]:
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd)

    return fsync


def noted(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**lock._identity(), **changes}))


def taken(path: Path) -> bool:
    try:
        with lock.held(path):
            return True
    except lock.HeldError:
        return False


def test_one_run_at_a_time_with_and_without_flock(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for _ in range(2):
        with lock.held(tmp_path / "lock"):
            assert not taken(tmp_path / "lock")
        assert taken(tmp_path / "lock")
        request.getfixturevalue("no_flock")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_an_owner_that_is_gone_is_no_other_run(no_flock: None, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = lock._identity()
    for changes in (
        {"pid": ended.pid, "start": "1"},
        {"start": "1"},  # the number is another process's by now
        {"boot": "before", "pid": 1},  # the machine was started anew: watched, as another machine is
        {"host": "elsewhere", "pid": 1},
    ):
        noted(tmp_path / "lock.owner", **changes)
        assert taken(tmp_path / "lock"), changes
    (tmp_path / "lock.owner").write_text("{")  # killed while it wrote
    assert taken(tmp_path / "lock")
    assert me["token"] != lock._identity()["token"]


def test_an_owner_on_another_machine_that_counts_is_a_run(no_flock: None, tmp_path: Path) -> None:
    """Its clock may say anything: what counts is that its number changes."""
    path = tmp_path / "lock.owner"
    noted(path, host="elsewhere")
    os.utime(path, (0, 0))
    owner = json.loads(path.read_text())
    stop = threading.Event()
    beating = threading.Thread(target=lock._beat, args=(path, owner, stop))
    beating.start()
    try:
        with pytest.raises(lock.HeldError, match=r"process \d+ on elsewhere"), lock.held(tmp_path / "lock"):
            pass
    finally:
        stop.set()
        beating.join()
    assert taken(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_folders_that_cannot_be_synced(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse_folders(number))
    durable.write_file(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_broken_disk_is_not_overlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse_folders(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable.write_file(tmp_path / "a", b"1")


def across_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_a_rename_across_mounts_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    across_mounts(monkeypatch)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/a").write_bytes(b"123")
    durable.publish(tmp_path / "one/a", tmp_path / "other/b")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]
    assert (tmp_path / "other/b").read_bytes() == b"123"


def test_names_of_255_bytes(tmp_path: Path) -> None:
    durable.write_file(tmp_path / ("x" * 255), b"1")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def maker_of(tmp_path: Path, **options: Any) -> ShardMaker:
    write_video(tmp_path / "in/a.mp4", moving_pictures(24, 2, height=48, width=64))
    meta = StoreMeta(short_side=32, motion_inputs=motion_scales(["edges"], 10.0))
    return ShardMaker(tmp_path / "in", tmp_path / "out", meta, prepare_parts.opencv_edges, None, "cpu", **options)


def test_a_store_on_the_worst_of_them(no_flock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse_folders(errno.EINVAL))
    across_mounts(monkeypatch)
    monkeypatch.delattr(os, "symlink")
    maker = maker_of(tmp_path)
    partial = PartialStore(tmp_path / "out")
    with (
        partial.locked(),
        pytest.raises(DataError, match=r"another modist prepare .* \(process \d+ on "),
        partial.locked(),
    ):
        pass
    with partial.locked():
        maker(ShardTask(0, ("a.mp4",)), lambda report: None)
        assert partial.finished() == [0]
    shutil.rmtree(tmp_path / "out")
    prepare(PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=1), prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "out")
    store.verify()
    assert list(store.videos) == ["a.mp4"]


@pytest.mark.parametrize("what", ["shard", "table"])
def test_a_full_disk_says_what_is_needed_and_keeps_no_half(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = maker_of(tmp_path, gigabytes=1234.0)
    partial = PartialStore(tmp_path / "out")

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = r"Writing shard 0 .* No space left on device\. .* writes 1,234\.00 GB in all; [\d.,]+ GB are free now\."
    with partial.locked():
        with monkeypatch.context() as patch:
            patch.setattr(*((writer, "publish", full) if what == "shard" else (os, "fsync", full)))
            with pytest.raises(DataError, match=message):
                maker(ShardTask(0, ("a.mp4",)), lambda report: None)
        assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["lock"]
        maker(ShardTask(0, ("a.mp4",)), lambda report: None)
        assert partial.finished() == [0]


def test_what_other_workers_had_begun_is_removed_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"in/{name}.mp4", moving_pictures(24, 2, height=48, width=64))
    config = PrepareConfig(tmp_path / "in", tmp_path / "out", short_side=32, workers=2)
    with pytest.raises(DataError, match=r"Writing shard . of .* No space left on device.*run the same command again"):
        prepare(config, prepare_parts.full_disk_edges)
    assert not list((tmp_path / "out").rglob("*.bin"))
    prepare(config, prepare_parts.opencv_edges)
    assert len(Store.open(tmp_path / "out").videos) == 2


@pytest.mark.parametrize("fault", ["NO_FLOCK", "NO_DIRSYNC"])
def test_reported_file_systems(fault: str, shared_data: Path, tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the stand-in of the file system")
    library = tmp_path / "s.so"
    source = shared_data / "reported/no_flock_no_dirsync.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    words = [sys.executable, REPOSITORY / "launch/prepare.py", shared_data / "reported/colon", "--out", tmp_path / "s"]
    environment = os.environ | {"LD_PRELOAD": str(library), fault: "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--workers", "1"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(Store.open(tmp_path / "s").videos) == ["12:30:05.mp4"]
