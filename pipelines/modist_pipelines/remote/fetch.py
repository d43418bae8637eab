"""Pieces of remote files as open files of this machine: kept in the cache of --cache, else for a moment."""

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist_pipelines.errors import DataError
from modist_pipelines.remote import access, urls
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.remote.cache import Cache

_MOST_HELD = 2  # files without a cache: a video is opened several times in a row
_held: OrderedDict[str, int] = OrderedDict()
_lock = threading.Lock()
_cache: Cache | None = None


@dataclass(frozen=True)
class State:
    """What a process of our own needs to read as this one does."""

    cache: tuple[Path, int] | None
    signed: dict[str, str]

    def take_over(self) -> None:
        """In the other process."""
        global _cache
        urls.give_keys(self.signed)
        _cache = Cache(*self.cache) if self.cache else None


def state() -> State:
    """Of this process."""
    return State((_cache.folder, _cache.limit) if _cache else None, urls.keys())


def use_cache(folder: Path | None, gigabytes: float, places: Iterable[Path | None]) -> None:
    """Keep what is read of URLs, from here on.

    Args:
        folder: of --cache; None keeps nothing.
        places: what is to be read.

    Raises:
        DataError: nothing of it is a URL; the folder cannot be used.
    """
    global _cache
    if folder is not None and not any(place is not None and urls.url_of(place) for place in places):
        raise DataError(f"--cache {folder} keeps what is read by URL, and nothing is. Leave it out.")
    _cache = Cache(folder.absolute(), round(gigabytes * 1e9)) if folder is not None else None


def has_cache() -> bool:
    return _cache is not None


def open_whole(url: str) -> int:
    """A descriptor of a copy of a whole file.

    Raises:
        RemoteError: it cannot be had.
        CacheError: the cache cannot be used.
    """
    facts = access.look(url)
    if facts.num_bytes is None:
        return _temporary(f"{url} {facts.version}", iter([access.read_all(url)]))
    return open_range(url, 0, facts.num_bytes)


def open_range(url: str, begin: int, end: int) -> int:
    """The same of a piece."""
    name = f"{url} {access.look(url).version} {begin} {end}"
    if _cache is not None:
        found = _cache.descriptor(name, end - begin, access.blocks(url, begin, end))
        if found is not None:
            return found
    return _temporary(name, access.blocks(url, begin, end))


def fetch_to(url: str, path: Path) -> None:
    """Copy a whole file.

    Raises:
        RemoteError: it cannot be had.
    """
    path.write_bytes(access.read_all(url))


def _temporary(name: str, blocks: Any) -> int:
    with _lock:
        if name in _held:
            _held.move_to_end(name)
            return _reopened(_held[name])
    with tempfile.TemporaryFile(prefix="modist-") as file:  # has no name: it goes with its last descriptor
        for block in blocks:
            file.write(block)
        file.flush()
        mine = _reopened(file.fileno())
        with _lock:
            if name not in _held:
                _held[name] = os.dup(file.fileno())
            while len(_held) > _MOST_HELD:
                os.close(_held.popitem(last=False)[1])
    return mine


def _reopened(descriptor: int) -> int:
    """With a place of its own in the file, which `dup` has not."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


__all__ = ["RemoteError", "State", "fetch_to", "has_cache", "open_range", "open_whole", "state", "use_cache"]
