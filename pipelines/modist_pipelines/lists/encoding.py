"""The text of a list, whatever it is encoded in."""

import codecs
import re
from pathlib import Path

from modist_pipelines.errors import DataError
from modist_pipelines.remote import access
from modist_pipelines.remote.urls import named, take_keys, url_of

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PAIRED = 0.8  # of the bytes beyond ASCII stand in pairs in Chinese text; in European text they stand alone
_ZEROS = 0.2  # of UTF-16, even where few of the signs are Latin
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")


def read_text(path: Path) -> tuple[str, str]:
    """
    Returns:
        The text, and the encoding that it was read in: by its mark, else UTF-8, else UTF-16 by its zeros, else GB 18030
        or a Western one, by how its bytes stand together.

    Raises:
        DataError: it cannot be read, or is no text in any of these.
    """
    try:
        data = path.read_bytes() if (url := url_of(path)) is None else access.read_all(url)
    except OSError as error:
        raise DataError(f"the list {named(path)} cannot be read: {error.strerror}. Give one that can.") from error
    problem = "no text"
    for encoding in _guesses(data):
        try:
            text = data.decode(encoding)
        except UnicodeError as error:
            problem = f"no {encoding} ({error})"
            continue
        if broken := _BINARY.search(text):
            line = text.count("\n", 0, broken.start()) + 1
            column = broken.start() - text.rfind("\n", 0, broken.start())
            problem = f"not text: line {line}, column {column} holds the control sign {broken.group()!r}"
            continue
        return take_keys(text), "utf-8" if encoding == "utf-8-sig" else encoding
    raise DataError(
        f"VIDEOS {path} is neither a folder nor a list: it is {problem}. Give a folder of videos, or a list in UTF-8."
    )


def _guesses(data: bytes) -> list[str]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return [encoding]
    head = data[:4096]
    if head.count(0) > _ZEROS * len(head):
        even = head[::2].count(0)
        return ["utf-16-be" if even * 2 > head.count(0) else "utf-16-le"]
    high = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    paired = sum(run - run % 2 for run in high)
    chinese = high and paired >= _PAIRED * sum(high)
    western = ["cp1252", "latin-1"]
    return ["utf-8", *(["gb18030", *western] if chinese else [*western, "gb18030"])]
