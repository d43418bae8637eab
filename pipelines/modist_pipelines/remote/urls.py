"""Places by URL, told from paths, and the parts of URLs that nobody may see.

A URL goes through the program as a `Path`, which takes "s3://bucket/a" as "s3:/bucket/a"; `url_of` gives it back. What
stands behind the "?" of an address, or in front of its "@", may be a key: signed URLs carry it. It is taken off where
an address is read, kept in memory for the request alone, and is no part of any name.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from modist_pipelines.errors import DataError

SCHEMES = ("s3", "gs", "http", "https")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+([^/].*)", re.DOTALL | re.IGNORECASE)
_FILE = re.compile(r"file:/+(.*)", re.DOTALL | re.IGNORECASE)
# In the text of a list, be it JSON, which may write "/" as "\/" and "&" as "\u0026".
_IN_TEXT = re.compile(r"""https?:(?:\\?/){2}(?:\\/|\\u0026|[^\s"'<>|;,\\])+""", re.IGNORECASE)
_signed: dict[str, str] = {}


def url_of(path: Path | str) -> str | None:
    """The URL that a path stands for; None for files of this machine."""
    found = _URL.fullmatch(str(path))
    return f"{found[1].lower()}://{found[2]}" if found else None


def local_of(path: Path) -> Path:
    """The file that a file:// URL names; other paths as they are."""
    found = _FILE.fullmatch(str(path))
    return Path("/" + found[1]) if found else path


def named(path: Path) -> str:
    """A place as people write it."""
    return url_of(path) or str(path)


def without_keys(url: str) -> str:
    """An address without what may be a key. Names of objects in buckets may hold any sign, and stay."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_keys(url: str) -> bool:
    """Whether an address says more than where."""
    return without_keys(url) != url


def refuse_keys(word: str) -> None:
    """Refuse an address of the command line that says more than where: others see command lines, and logs keep them.

    Raises:
        DataError: without the words that may be a key.
    """
    found = re.search(rf"({'|'.join(SCHEMES)})://\S+", word, re.IGNORECASE)
    if found is not None and has_keys(found[0]):
        raise DataError(
            f"{without_keys(found[0])} was given with a user or a '?', which may hold a key that others can see. Give "
            "the plain address, and credentials by the environment; signed addresses of videos belong into a list."
        )


def take_keys(text: str) -> str:
    """The text of a list with its addresses bare; what they had beside is used when they are asked for.

    Raises:
        DataError: two addresses that differ in nothing else.
    """

    def bare(found: re.Match[str]) -> str:
        written = found[0].replace("\\/", "/").replace("\\u0026", "&")
        if not has_keys(written):
            return found[0]
        plain = without_keys(written)
        before = seen.setdefault(plain, written)
        if before != written:
            raise DataError(
                f"{plain} stands in the list twice, with different words behind its '?': these may be keys, so they "
                "are no part of a video's name. Give each video an address of its own in front of the '?'."
            )
        _signed[plain] = written
        return plain

    seen: dict[str, str] = {}
    return _IN_TEXT.sub(bare, text)


def asked_for(url: str) -> str:
    """The address that the server is asked for: with the keys that it came with. Not to be shown."""
    return _signed.get(url, url)


def keys() -> dict[str, str]:
    """All keys, for a process of our own."""
    return dict(_signed)


def give_keys(signed: dict[str, str]) -> None:
    """Keys from the process that started this one."""
    _signed.update(signed)
