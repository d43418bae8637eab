"""The bytes of a video, wherever they lie: a file, a folder of pictures, or either of them in an archive.

A path leads to all of them: root/a.mp4, root/class/video (a folder of frames), root/shard.tar/a.mp4. All that reads
videos opens them here. A video by URL is brought here whole, in few requests, and read as a file of this machine.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from modist_pipelines.remote import access, fetch
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.remote.urls import url_of
from modist_pipelines.video import archives
from modist_pipelines.video.archives import Member
from modist_pipelines.video.frame_folders import frames_in, in_a_row, pipe_of


class Status(NamedTuple):
    """By which it is seen that a video was replaced."""

    num_bytes: int
    mtime_ns: int


class Opened(NamedTuple):
    """A video's bytes, and what they are where they do not say themselves."""

    file: "BinaryIO | Joined"
    pipe: str | None = None
    """FFmpeg's name of a row of pictures."""


class Joined:
    """Pictures one after another, as a file that is read from its first byte to its last. One that cannot be read is
    left out; who counts the frames finds that it is missing."""

    def __init__(self, readers: Iterator[Callable[[], bytes]], pipe: str) -> None:
        self._readers, self._pipe = readers, pipe
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while not self._rest:
            reader = next(self._readers, None)
            if reader is None:
                return b""
            with contextlib.suppress(OSError):
                self._rest = memoryview(in_a_row(reader(), self._pipe))
        block, self._rest = self._rest[:size], self._rest[size:]
        return bytes(block)

    def close(self) -> None:
        """Nothing stays open between pictures."""


def open_descriptor(path: Path) -> int | None:
    """A descriptor of a file of its own; None for a folder, and for what lies in an archive.

    Raises:
        OSError: it is not there, or a pipe or a device.
        CacheError: --cache cannot be used.
    """
    if (url := url_of(path)) is not None:
        return fetch.open_whole(url)
    try:
        # Without waiting: else a pipe that nobody writes into would hold us up here.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except NotADirectoryError:
        return None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        return None
    raise OSError("a folder, a pipe or a device, not a file")


def open_bytes(path: Path) -> Opened:
    """
    Raises:
        OSError: there is no video.
    """
    if (descriptor := open_descriptor(path)) is not None:
        return Opened(os.fdopen(descriptor, "rb"))
    if path.is_dir():
        names = _frames_of_folder(path)
        pipe = pipe_of(names[0])
        return Opened(Joined(((path / name).read_bytes for name in names), pipe), pipe)
    archive, found = _in_archive(path)
    if isinstance(found, Member):
        return Opened(archives.open_member(archive, found))
    pipe = pipe_of(found[0].name)
    return Opened(Joined((_reader(archive, member) for member in found), pipe), pipe)


def status(path: Path) -> Status:
    """
    Raises:
        OSError: there is no video.
    """
    if (url := url_of(path)) is not None:
        facts = access.look(url)
        return Status(facts.num_bytes or 0, facts.mtime_ns)
    try:
        found = path.stat()
    except NotADirectoryError:
        archive, inside = _in_archive(path)
        inside = [inside] if isinstance(inside, Member) else inside
        return Status(sum(member.num_bytes for member in inside), archive.stat().st_mtime_ns)
    if stat.S_ISDIR(found.st_mode):
        names = _frames_of_folder(path)
        # Of one frame for all: a corpus has millions of them.
        return Status(len(names) * (path / names[0]).stat().st_size, found.st_mtime_ns)
    return Status(found.st_size, found.st_mtime_ns)


def num_pictures(path: Path) -> int:
    """Frames of a folder of pictures, in an archive or not; 0 for other videos."""
    if path.is_dir():
        return len(_frames_of_folder(path))
    if path.is_file() or url_of(path) is not None:
        return 0
    _, found = _in_archive(path)
    return 0 if isinstance(found, Member) else len(found)


def is_video_place(path: Path) -> bool:
    """Whether there is a file, a folder of frames, or either in an archive."""
    if os.path.isfile(path):
        return True
    if (url := url_of(path)) is not None:
        try:
            access.look(url)
        except RemoteError as error:
            # One that is out of reach or denied may be there: whoever opens it says what is wrong.
            return error.reason != "gone"
        return True
    try:
        return num_pictures(path) > 0 or not path.is_dir()
    except OSError:  # nothing there, or a name that cannot be
        return False


def grouped(names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Names within an archive: folders of frames with their pictures, and all other files."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        by_folder.setdefault(folder, []).append(base)
    frames, rest = {}, []
    for folder, bases in by_folder.items():
        pictures = frames_in(bases) if folder else []
        if pictures:
            frames[folder] = pictures
        rest += [f"{folder}/{base}" if folder else base for base in bases if base not in set(pictures)]
    return frames, rest


def _frames_of_folder(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        names = frames_in(entry.name for entry in entries)
    if not names:
        raise OSError("a folder, a pipe or a device, not a file, and no numbered pictures in it")
    return names


def _in_archive(path: Path) -> tuple[Path, Member | list[Member]]:
    found = archives.split(path)
    if found is None:
        raise NotADirectoryError(20, "Not a directory", str(path))
    archive, inside = found
    members = archives.members(archive)
    if inside in members:
        return archive, members[inside]
    prefix = f"{inside}/"
    bases = [name.removeprefix(prefix) for name in members if name.startswith(prefix)]
    frames = frames_in(base for base in bases if "/" not in base)
    if not frames:
        raise FileNotFoundError(2, "no such file in the archive", str(path))
    return archive, [members[prefix + base] for base in frames]


def _reader(archive: Path, member: Member) -> Callable[[], bytes]:
    def read() -> bytes:
        with archives.open_member(archive, member) as file:
            return file.read()

    return read
