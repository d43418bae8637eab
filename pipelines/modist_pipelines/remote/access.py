"""Asking servers: sizes, listings and ranges of bytes, tried again while that may help. fsspec does the talking.

Who asks is said by the usual environment alone (AWS_*, GOOGLE_APPLICATION_CREDENTIALS, ~/.netrc, HTTPS_PROXY). What a
library says of an error may quote an address with its key, so none of it is handed on.
"""

import errno
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from modist_pipelines.errors import DataError
from modist_pipelines.remote.urls import asked_for

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try."""
BLOCK = 16 << 20
"""Bytes of one request at most: what a lost connection costs."""
_SILENCE = 60.0  # seconds without a byte after which a connection is lost
_LOOKS = 32  # side by side
Result = TypeVar("Result")
Reason = Literal["gone", "denied", "unreachable"]
_NUMBERS = {"gone": errno.ENOENT, "denied": errno.EACCES, "unreachable": errno.EIO}


class RemoteError(OSError):
    """A URL that cannot be had; `strerror` names it."""

    def __init__(self, reason: Reason, url: str, detail: str) -> None:
        super().__init__(_NUMBERS[reason], f"{url} {detail}")
        self._arguments = reason, url, detail
        self.reason: Reason = reason

    def __reduce__(self):
        return type(self), self._arguments

    def __str__(self) -> str:
        return str(self.strerror)


class Facts(NamedTuple):
    """What a server says of a file."""

    num_bytes: int | None
    mtime_ns: int
    """0 where it does not say."""
    version: str
    """Changes when the file does."""


_facts: dict[str, Facts] = {}
_failed: dict[str, tuple[float, RemoteError]] = {}
_FRESH = 120.0  # seconds for which what failed is not asked for again


def look(url: str) -> Facts:
    """Ask for size and time, once in a process.

    Raises:
        RemoteError: it is not there, not for us, or out of reach.
    """
    if url not in _facts:
        when, error = _failed.get(url, (0.0, None))
        if error is not None and time.monotonic() - when < _FRESH:
            raise error
        try:
            _facts[url] = _of_info(_asked(url, lambda system: system.info(asked_for(url))))
        except RemoteError as error:
            _failed[url] = time.monotonic(), error
            raise
    return _facts[url]


def look_at_all(urls: Iterable[str]) -> None:
    """The same for many, side by side; what cannot be had is left for whoever asks for it.

    Raises:
        DataError: the first of them are all out of reach.
    """

    def one(url: str) -> RemoteError | None:
        try:
            look(url)
        except RemoteError as error:
            return error
        return None

    urls = list(urls)
    with ThreadPoolExecutor(_LOOKS) as threads:
        first = list(threads.map(one, urls[:_LOOKS]))
        if first and all(error is not None and error.reason == "unreachable" for error in first):
            raise DataError(f"None of the first {len(first)} addresses answers. Look at the network: {first[0]}")
        list(threads.map(one, urls[_LOOKS:]))


def listed(url: str) -> dict[str, Facts]:
    """All files under a folder of a bucket: names relative to it.

    Raises:
        DataError: it is no bucket's, denies, or is out of reach. An empty folder is none.
    """
    base = url.rstrip("/")
    if url.startswith("http"):
        raise DataError(f"{url} cannot be listed: the web has no folders. Give a list of the addresses.")
    try:
        found: Mapping[str, Any] = _asked(base, lambda system: system.find(base, detail=True))
    except RemoteError as error:
        raise DataError(f"VIDEOS {base} cannot be listed: {error} Or give a list of videos.") from None
    inside = base.partition("://")[2] + "/"
    files = {name.removeprefix(inside): _of_info(info) for name, info in found.items() if name.startswith(inside)}
    files = {name: facts for name, facts in files.items() if name and not name.endswith("/")}
    _facts.update({f"{base}/{name}": facts for name, facts in files.items()})
    return files


def read(url: str, begin: int, end: int) -> bytes:
    """Bytes of a file; a connection that is lost costs the block that it was at.

    Raises:
        RemoteError: they cannot be had.
    """
    return b"".join(blocks(url, begin, end))


def blocks(url: str, begin: int, end: int) -> Iterator[bytes]:
    """The same, block by block.

    Raises:
        RemoteError: as it goes.
    """
    for place in range(begin, end, BLOCK):
        yield _range(url, place, min(place + BLOCK, end))


def read_all(url: str) -> bytes:
    """A whole file, however long.

    Raises:
        RemoteError: it cannot be had.
    """
    size = look(url).num_bytes
    return read(url, 0, size) if size is not None else _asked(url, lambda system: system.cat_file(asked_for(url)))


def _range(url: str, begin: int, end: int) -> bytes:
    def get(system: Any) -> bytes:
        data = system.cat_file(asked_for(url), start=begin, end=end)
        if len(data) > end - begin:
            if len(data) < end:
                raise RemoteError("unreachable", url, "has another size than its server said. Run the command again.")
            data = data[begin:end]  # the server does not know ranges, and gave all
        if len(data) < end - begin:
            raise ConnectionError("fewer bytes than asked for")
        return data

    return _asked(url, get)


def _asked(url: str, ask: Callable[[Any], Result]) -> Result:
    scheme = url.partition("://")[0]
    for pause in (*PAUSES, None):
        try:
            return ask(_system(os.getpid(), scheme))
        except (DataError, RemoteError):
            raise
        except Exception as error:  # of four libraries, which have no base in common
            reason, detail = _judged(error)
        if reason != "unreachable":
            break
        if pause is not None:
            time.sleep(pause * random.uniform(0.5, 1.0))  # not all processes at one moment
    raise RemoteError(reason, url, detail)


def _judged(error: BaseException) -> tuple[Reason, str]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    status = next((code for link in chain if (code := _status(link)) is not None), None)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if status in (401, 403) or kinds & {"PermissionError", "NoCredentialsError", "PartialCredentialsError"}:
        what = (
            "without credentials" if kinds & {"NoCredentialsError", "PartialCredentialsError"} else f"{status or 403}"
        )
        return "denied", (
            f"denies reading ({what}). Set the credentials that the environment is asked for (AWS_ACCESS_KEY_ID, "
            "AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS; a public bucket: FSSPEC_S3_ANON=true), or renew a signed URL."
        )
    network = {
        "ClientConnectionError",
        "TimeoutError",
        "ConnectionError",
        "EndpointConnectionError",
        "ClientPayloadError",
    }
    is_gone = status in (404, 410) or (status is None and "FileNotFoundError" in kinds and not kinds & network)
    if is_gone:
        return "gone", f"is gone ({status or 404}). Look whether the address is right."
    said = f"status {status}" if status else type(chain[-1]).__name__
    return "unreachable", (
        f"cannot be read ({said}), also when tried {len(PAUSES)} times more. Look at the network and the server, "
        "then run the same command again."
    )


def _status(error: BaseException) -> int | None:
    answer = getattr(error, "response", None)  # botocore's
    code = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    code = code or getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp's, gcsfs's
    return int(code) if isinstance(code, int | str) and str(code).isdigit() and int(code) >= 400 else None


def _of_info(info: Mapping[str, Any]) -> Facts:
    when = info.get("LastModified") or info.get("mtime") or info.get("Last-Modified")
    if isinstance(when, str):
        try:
            when = parsedate_to_datetime(when)
        except ValueError:
            when = None
    mtime_ns = round(when.timestamp()) * 10**9 if when is not None and hasattr(when, "timestamp") else 0
    version = info.get("ETag") or info.get("etag") or info.get("md5Hash") or mtime_ns
    return Facts(info.get("size"), mtime_ns, f"{version} {info.get('size')}")


@lru_cache
def _system(process: int, scheme: str) -> Any:
    """The file system of a scheme; a forked process makes its own."""
    try:
        import fsspec

        return fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
    except ImportError as error:
        needed = "gcsfs" if scheme == "gs" else "'modist-fast[remote]'"
        raise DataError(f"{scheme}:// needs {error.name or 'a package'}. Run pip install {needed}.") from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    if scheme == "s3":
        import s3fs

        s3fs.S3FileSystem.retries = 1  # we try again ourselves, and say so
        patience = {"connect_timeout": _SILENCE, "read_timeout": _SILENCE, "retries": {"max_attempts": 1}}
        return {"config_kwargs": patience, "use_listings_cache": False}
    return {"use_listings_cache": False}
