"""Videos and stores by URL, against real servers of this machine."""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from clip_store import make_store
from file_server import SECRET, FileServer, make_bucket, s3_server, serving, upload
from made_videos import numbered_picture, write_video
from prepare_parts import opencv_edges

pytest.importorskip("s3fs", reason="needs the extra [remote]")
pytest.importorskip("moto", reason="needs moto[server]")

from modist_pipelines.errors import DataError
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.remote import access, fetch, urls
from modist_pipelines.remote.cache import Cache, CacheError
from modist_pipelines.store.places import coalesced
from modist_pipelines.store.reader import Store
from modist_pipelines.video.discovery import discover_videos


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cache, nothing known of any server, and short pauses."""
    monkeypatch.setattr(access, "PAUSES", (0.01, 0.01))
    yield
    access._facts.clear()
    access._failed.clear()
    urls._signed.clear()
    fetch.use_cache(None, 1, ())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for number in range(3):
        path = folder / "class" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, [numbered_picture(number * 40 + frame) for frame in range(32)])
        os.utime(path, (1_700_000_000, 1_700_000_000 + number))  # whole seconds, as HTTP has them
    return folder


@pytest.fixture
def server(videos: Path) -> Iterator[FileServer]:
    with serving(videos) as found:
        yield found


def made(videos: Path, out: Path, **options) -> Path:
    prepare(PrepareConfig(videos, out, short_side=32, workers=1, motion_inputs=(), **options), opencv_edges)
    return out


def listed(path: Path, rows: list[str]) -> Path:
    path.write_text("path,label\n" + "".join(f"{row},{number}\n" for number, row in enumerate(rows)))
    return path


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def names_of(videos: Path) -> list[str]:
    return sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))


@pytest.fixture(scope="module")
def local(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a list of the videos where they lie."""
    folder = tmp_path_factory.mktemp("local")
    return made(listed(folder / "list.csv", [str(videos / name) for name in names_of(videos)]), folder / "store")


def test_http_videos_become_the_store_of_local_ones(
    videos: Path, server: FileServer, local: Path, tmp_path: Path
) -> None:
    """Byte for byte, over connections that break, with signed addresses; nobody sees the keys."""
    names = names_of(videos)
    server.key = f"X-Amz-Signature={SECRET}"
    server.cuts.update({f"/{name}": 1 for name in names})
    rows = [f"{server.url}/{name}?{server.key}" for name in names]
    away = made(listed(tmp_path / "away.csv", rows), tmp_path / "away", cache=tmp_path / "cache", cache_gb=0.1)
    assert contents(away) == contents(local)
    assert server.cuts.total() == 0, "no connection was cut"
    for name in names:
        # Brought in one request, beside the one that was cut: the cache serves the estimate, the encoder and the sum.
        assert len(server.gets(name)) == 2
    assert SECRET.encode() not in b"".join(contents(tmp_path / "cache").values())


def test_gone_and_denied_videos_cost_themselves(
    videos: Path, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [name.removeprefix("class/") for name in names_of(videos)]
    server.denied = {names[0]}
    server.key = f"token={SECRET}"
    rows = [f"{server.url}/class/{name}?{server.key}" for name in [*names, "gone.mp4"]]
    with caplog.at_level(logging.DEBUG, "modist"):
        out = made(listed(tmp_path / "list.csv", rows), tmp_path / "out")
    reasons = Store.open(out).quarantine()
    assert reasons[names[0]].startswith("unreachable: http://127.0.0.1")
    assert "denies reading (403). Set the credentials" in reasons[names[0]]
    assert next(reason for name, reason in reasons.items() if "gone" in name).startswith("missing")
    assert list(Store.open(out).videos) == names[1:]
    assert SECRET not in caplog.text
    assert SECRET.encode() not in b"".join(contents(out).values())
    server.denied.clear()
    access._facts.clear()
    access._failed.clear()
    made(tmp_path / "list.csv", out)  # what a server did not give is tried again unasked
    assert list(Store.open(out).videos) == [*names[1:], names[0]]  # those that were known keep their places


def test_no_error_shows_a_key(server: FileServer, tmp_path: Path) -> None:
    for word in (f"{server.url}/store?sig={SECRET}", f"--store=s3://me:{SECRET}@bucket/store"):
        with pytest.raises(DataError) as refused:
            urls.refuse_keys(word)
        assert SECRET not in str(refused.value)
    twice = listed(tmp_path / "twice.csv", [f"{server.url}/a.mp4?key={SECRET}", f"{server.url}/a.mp4?key=other"])
    with pytest.raises(DataError, match="twice") as refused:
        made(twice, tmp_path / "out")
    assert SECRET not in str(refused.value)
    urls.take_keys(f"{server.url}/gone.mp4?key={SECRET}")
    for reason, url in (("denied", f"{server.url}/gone.mp4"), ("unreachable", "http://127.0.0.1:9/a.mp4")):
        with pytest.raises(access.RemoteError) as error:
            access.read(url, 0, 9)
        assert error.value.reason == reason
        assert SECRET not in f"{error.value!r}{pickle.dumps(error.value)}"
    assert urls.take_keys('{"a": "https:\\/\\/h\\/a.mp4?k=' + SECRET + '\\u0026b=1"}') == '{"a": "https://h/a.mp4"}'


def test_a_server_without_ranges_serves_too(videos: Path, server: FileServer) -> None:
    server.has_ranges = False
    with open(fetch.open_whole(f"{server.url}/class/0.mp4"), "rb") as file:
        assert file.read() == (videos / "class/0.mp4").read_bytes()
    assert access.read(f"{server.url}/class/0.mp4", 10, 30) == (videos / "class/0.mp4").read_bytes()[10:30]


def frames_of(store: Store) -> list[list[bytes]]:
    wanted = {"rgb": [0, 1, 5, 9], "edges": [2, 3, 8]}
    readings = [store.read(video, wanted) for video in range(store.num_videos)]
    return [[jpeg.tobytes() for kind in wanted for jpeg in reading.frames[kind]] for reading in readings]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "root" / "store", [12, 12, 12])


def test_http_store_reads_as_the_local_one(store: Store, tmp_path: Path) -> None:
    """In one request a video where its frames are near each other; from the cache, in none."""
    expected = frames_of(store)
    with serving(tmp_path / "root") as server:
        away = Store.open(f"{server.url}/store")
        server.cuts["/store/shards/00000.bin"] = 1
        server.requests.clear()
        video = away.read(0, {"rgb": [0, 1, 5, 9], "edges": [2, 3, 8]})
        assert video.frames_decoded == 7
        assert len(server.gets(".bin")) == 2, "one, after the one that was cut"
        assert frames_of(away) == expected
        assert away.fingerprint() == store.fingerprint()
        assert frames_of(pickle.loads(pickle.dumps(away))) == expected
        fetch.use_cache(tmp_path / "cache", 0.1, (Path(f"{server.url}/store"),))
        assert frames_of(away) == expected
        server.requests.clear()
        assert frames_of(away) == expected
        assert server.requests == []


def test_a_store_that_denies_or_is_gone_is_one_paragraph(store: Store, tmp_path: Path) -> None:
    with serving(tmp_path / "root") as server:
        with pytest.raises(DataError, match=r"is not a store: it has no store\.json"):
            Store.open(f"{server.url}/other")
        away = Store.open(f"{server.url}/store")
        server.denied = {"store.json"}
        access._facts.clear()
        with pytest.raises(DataError, match=r"cannot be opened.*denies reading \(403\)\. Set the credentials"):
            Store.open(f"{server.url}/store")
        server.denied = {"shards"}
        with pytest.raises(DataError, match="Then let a run go on: pass --resume auto"):
            away.read(0, {"rgb": [0]})


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with s3_server(tmp_path / "none") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        access._system.cache_clear()
        yield make_bucket(tmp_path.name)
        access._system.cache_clear()


def test_s3_store_and_videos(store: Store, bucket: str, videos: Path, local: Path, tmp_path: Path) -> None:
    upload(store.path, f"{bucket}/some/store")
    away = Store.open(f"{bucket}/some/store")
    assert frames_of(away) == frames_of(store)
    np.testing.assert_array_equal(away.num_frames, store.num_frames)
    upload(videos, f"{bucket}/videos")
    names = names_of(videos)
    assert discover_videos(Path(f"{bucket}/videos")) == (names, [])
    out = made(listed(tmp_path / "list.csv", [f"{bucket}/videos/{name}" for name in names]), tmp_path / "s3")
    for name in ("store.json", "index.parquet", "shards/00000.bin"):
        assert (out / name).read_bytes() == (local / name).read_bytes()
    noted = [pq.read_table(place / "sources.parquet").drop(["mtime_ns"]) for place in (out, local)]
    assert noted[0].equals(noted[1])
    assert SECRET.encode() not in b"".join(contents(out).values())


def test_s3_that_denies(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as server:
        server.denied = {"/"}
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        access._system.cache_clear()
        with pytest.raises(DataError, match="denies reading") as refused:
            Store.open("s3://secrets/store")
        with pytest.raises(DataError, match="denies reading"):
            made(Path("s3://secrets/videos"), tmp_path / "out")
        assert SECRET not in str(refused.value)


def test_spans_near_each_other_are_one_request() -> None:
    assert coalesced([(50, 60), (0, 10), (12, 20), (15, 18)], gap=5) == [(0, 20), (50, 60)]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_the_cache_keeps_its_limit_and_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1000)

    def get(name: str, size: int = 300) -> bytes | None:
        blocks = (name.encode()[:1] * part for part in (size - 10, 10))
        found = cache.descriptor(name, size, blocks)
        if found is None:
            return None
        with open(found, "rb") as file:
            return file.read()

    for name in "abc":
        assert get(name) == name.encode() * 300
    for place, path in enumerate(sorted((tmp_path / "cache").glob("??/*"), key=lambda path: path.read_bytes())):
        os.utime(path, (1000, 1000 + place))
    assert cache.descriptor("a", 300, failing()) is not None  # kept, so nothing is asked for; and now the newest
    assert get("d") == b"d" * 300
    assert {path.read_bytes()[:1] for path in (tmp_path / "cache").glob("??/*")} == {b"a", b"c", b"d"}
    assert get("e", 2000) is None
    assert size_of(tmp_path / "cache") <= 1000
    with pytest.raises(RuntimeError):
        cache.descriptor("f", 300, failing())
    assert not list((tmp_path / "cache").glob("??/*.part"))
    assert cache._noted() == size_of(tmp_path / "cache")
    with pytest.raises(CacheError, match="--cache-gb"):
        Cache(Path("/dev/null/cache"), 1)


def failing() -> Iterator[bytes]:
    raise RuntimeError("asked for")
    yield b""


FILLER = """
import sys, random
from pathlib import Path
from modist_pipelines.remote.cache import Cache
cache = Cache(Path(sys.argv[1]), 20_000)
random.seed(int(sys.argv[2]))
for _ in range(300):
    name = random.randrange(40)
    found = cache.descriptor(str(name), 1000 + name, iter([bytes([name]) * 500, bytes([name]) * (500 + name)]))
    if found is not None:
        with open(found, "rb") as file:
            assert file.read() == bytes([name]) * (1000 + name)
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Every file whole, the sum right and within the limit, whoever evicts whose."""

    def run(seed: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", FILLER, str(tmp_path / "cache"), str(seed)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(3) as threads:
        for ended in threads.map(run, range(3)):
            assert ended.returncode == 0, ended.stderr
    assert 0 < size_of(tmp_path / "cache") <= 20_000
    assert Cache(tmp_path / "cache", 20_000)._noted() == size_of(tmp_path / "cache")
