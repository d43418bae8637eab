"""Files within tar and zip archives, read where they are: nothing is unpacked, and no name of theirs is a path here."""

import io
import os
import posixpath
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

SUFFIXES = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_IN_MEMORY = 64 << 20  # bytes of a compressed member; a larger one waits in a temporary file
_LOCAL_HEADER = struct.Struct("<26xHH")


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    """As the archive has it."""
    num_bytes: int
    offset: int | None
    """Where its bytes begin in the archive; None where they are compressed."""


def split(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads into, and the name in it; None where it leads into none."""
    for parent in path.parents:
        if parent.suffix.lower() in SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(archive: Path) -> Mapping[str, Member]:
    """The files of an archive by their names, without "./" and double strokes; those that lead out of it are left out.

    Raises:
        OSError: no archive, or one that is broken.
    """
    status = archive.stat()
    return _members(archive, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(archive: Path, num_bytes: int, mtime_ns: int) -> Mapping[str, Member]:
    try:
        found = _of_zip(archive) if archive.suffix.lower() == ".zip" else _of_tar(archive)
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, struct.error, EOFError, NotImplementedError) as error:
        raise OSError(f"an archive that cannot be read ({error})") from error
    named = {posixpath.normpath(member.name): member for member in found}
    return {name: member for name, member in named.items() if not name.startswith(("/", "../")) and name != ".."}


def _of_tar(archive: Path) -> list[Member]:
    with tarfile.open(archive, "r:", errorlevel=0) as tar:
        return [
            Member(entry.name, entry.size, entry.offset_data)
            for entry in tar
            if entry.isreg() and not entry.issparse()  # no links: they lead elsewhere
        ]


def _of_zip(archive: Path) -> list[Member]:
    found = []
    with zipfile.ZipFile(archive) as zipped, archive.open("rb") as file:
        for entry in zipped.infolist():
            if entry.is_dir() or entry.flag_bits & 1:  # encrypted
                continue
            offset = None
            if entry.compress_type == zipfile.ZIP_STORED:
                file.seek(entry.header_offset)
                header = file.read(_LOCAL_HEADER.size)
                offset = entry.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
            found.append(Member(entry.filename, entry.file_size, offset))
    return found


def open_member(archive: Path, member: Member) -> BinaryIO:
    """The bytes of a member, from any place on.

    Raises:
        OSError: the archive cannot be read.
    """
    if member.offset is not None:
        return io.BufferedReader(_Window(archive, member.offset, member.num_bytes), 1 << 18)  # type: ignore[return-value]
    unpacked = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (whoever asked for it closes it)
    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(member.name) as packed:
            while block := packed.read(1 << 20):
                unpacked.write(block)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        unpacked.close()
        raise OSError(f"{member.name} cannot be unpacked ({error})") from error
    unpacked.seek(0)
    return unpacked  # type: ignore[return-value]


class _Window(io.RawIOBase):
    """A range of a file as a file of its own."""

    def __init__(self, path: Path, begin: int, size: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._begin, self._size, self._at = begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        data = os.pread(self._descriptor, len(view), self._begin + self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
