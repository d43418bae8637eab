"""Where the bytes of a store lie: in a folder of this machine, or behind a URL."""

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeAlias

from modist_pipelines.errors import DataError
from modist_pipelines.remote import access, fetch
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.remote.urls import has_keys, url_of

# Open shards at a time. A store of Kinetics-400 has more shards than a process may open files.
_MAX_OPEN_SHARDS = 256
_GAP = 256 << 10  # bytes that are read along rather than asked for around
TABLES = ("store.json", "index.parquet", "quarantine.parquet")
Span: TypeAlias = tuple[int, int]
"""First byte and the one behind the last."""
GetBytes: TypeAlias = Callable[[int, int], bytes]


class Shards(Protocol):
    """Reading of shards."""

    tables: Path
    """The folder of the tables on this machine."""

    def sizes(self, shards: Iterable[int]) -> dict[int, int | None]:
        """Bytes of each; None where it is not there."""
        ...

    def num_bytes(self) -> int:
        """Of all shards."""
        ...

    def reader(self, shard: int, wanted: Callable[[], Iterable[Span]], video: Callable[[], Span]) -> GetBytes:
        """What gives the wanted spans of a video, or pieces of them.

        Args:
            wanted, video: asked only where that has to be known first; the spans, and where all of the video is.
        """
        ...

    def close(self) -> None:
        """A later read opens what it needs again."""
        ...


def shards_of(place: Path) -> Shards:
    """
    Raises:
        DataError: a URL that denies or does not answer.
    """
    return LocalShards(place) if (url := url_of(place)) is None else RemoteShards(url)


def shard_path(store: Path, shard: int) -> Path:
    return store / "shards" / f"{shard:05d}.bin"


class _ShardFile:
    """A file descriptor that closes when its last reader lets go: eviction never pulls it from a read."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.fd)


class LocalShards:
    """Of a folder; by `pread`."""

    def __init__(self, folder: Path) -> None:
        self.tables = folder
        # `self` in there would be a cycle: files of a dropped store would stay open for a while
        self._open = lru_cache(maxsize=_MAX_OPEN_SHARDS)(lambda shard: _ShardFile(shard_path(folder, shard)))

    def sizes(self, shards: Iterable[int]) -> dict[int, int | None]:
        paths = {shard: shard_path(self.tables, shard) for shard in shards}
        return {shard: path.stat().st_size if path.is_file() else None for shard, path in paths.items()}

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.tables / "shards").glob("*.bin"))

    def reader(self, shard: int, wanted: Callable[[], Iterable[Span]], video: Callable[[], Span]) -> GetBytes:
        def get(begin: int, end: int) -> bytes:
            file = self._open(shard)  # held by name: else another thread's eviction closes it under the read
            return os.pread(file.fd, end - begin, begin)

        return get

    def close(self) -> None:
        self._open.cache_clear()


class RemoteShards:
    """Behind a URL: the tables are copied, the shards read in ranges. With --cache, videos are kept whole."""

    def __init__(self, url: str) -> None:
        if has_keys(url):
            raise DataError(f"--store {url.partition('?')[0]} …: give the URL without keys and '?'.")
        self._url = url.rstrip("/")
        self._folder = tempfile.TemporaryDirectory(prefix="modist-store-")
        self.tables = Path(self._folder.name)
        self._sizes: dict[int, int | None] = {}
        for name in TABLES:
            try:
                fetch.fetch_to(f"{self._url}/{name}", self.tables / name)
            except RemoteError as error:
                if error.reason != "gone":
                    raise DataError(
                        f"--store {self._url} cannot be opened: {error} Or pass a copy on a disk."
                    ) from None
                if name == TABLES[0]:
                    break  # no store: whoever reads it says so

    def _shard(self, shard: int) -> str:
        return f"{self._url}/shards/{shard:05d}.bin"

    def sizes(self, shards: Iterable[int]) -> dict[int, int | None]:
        if self._url.startswith("http"):
            access.look_at_all(self._shard(shard) for shard in shards)
        else:
            access.listed(f"{self._url}/shards")
        for shard in shards:
            try:
                self._sizes[shard] = access.look(self._shard(shard)).num_bytes
            except RemoteError as error:
                if error.reason != "gone":
                    raise DataError(
                        f"--store {self._url} cannot be opened: {error} Or pass a copy on a disk."
                    ) from None
        return {shard: self._sizes.get(shard) for shard in shards}

    def num_bytes(self) -> int:
        return sum(size or 0 for size in self._sizes.values())

    def reader(self, shard: int, wanted: Callable[[], Iterable[Span]], video: Callable[[], Span]) -> GetBytes:
        url = self._shard(shard)
        if fetch.has_cache():
            first, last = video()
            step = access.BLOCK  # of a long video, the pieces that are looked at
            starts = {start for begin, end in wanted() for start in range(begin - (begin - first) % step, end, step)}
            spans = [(start, min(start + step, last)) for start in sorted(starts)]
            pieces = [(begin, _kept(url, begin, end)) for begin, end in spans]
        else:
            pieces = [(begin, access.read(url, begin, end)) for begin, end in coalesced(wanted())]

        def get(begin: int, end: int) -> bytes:
            inside = [(start, data) for start, data in pieces if start < end and begin < start + len(data)]
            return b"".join(data[max(0, begin - start) : end - start] for start, data in inside)

        return get

    def close(self) -> None:
        """Nothing stays open between reads."""


def coalesced(spans: Iterable[Span], gap: int = _GAP) -> list[Span]:
    """Spans as few requests: those that are near each other in one."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined


def _kept(url: str, begin: int, end: int) -> bytes:
    with open(fetch.open_range(url, begin, end), "rb") as file:
        return file.read()
