"""Files of servers kept on a disk of this machine, up to a number of bytes; those that were used last stay.

All processes of a machine may share a folder. A file appears whole, under the digest of its address and version, by a
rename; its room is taken under a lock before its first byte is written, as a file of that length without content, so
what others count is right at every moment, and after a kill too.
"""

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modist_pipelines.errors import DataError

_STALE = 3600.0  # seconds after which a half file that nobody has written to is a dead process's
_SHARE = 0.9  # of the limit that is left full, so that not every file looks for room
_HALF = ".part"


class CacheError(DataError):
    """The folder of --cache does not do its work. It costs no video: nobody has looked at one."""


class Cache:
    """
    Args:
        folder: made where it is not there; on a disk of this machine.
        limit: bytes.

    Raises:
        CacheError: it cannot be made or locked.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._note(sum(size for _, size, _ in self._files()))

    def descriptor(self, name: str, num_bytes: int, blocks: Iterator[bytes]) -> int | None:
        """A descriptor of a kept file, which is written first where it is not there. It stays good when it is evicted.

        Args:
            name: of address and version.
            num_bytes: of `blocks` together.
            blocks: asked for only where they are needed; what that raises is handed on.

        Returns:
            None where there is no room for it: it is larger than the limit, or others are writing that much.
        """
        key = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        path = self.folder / key[:2] / key
        with self._explained():
            if (kept := _opened(path, num_bytes)) is not None:
                return kept
            half = path.with_name(f"{key}.{uuid.uuid4().hex}{_HALF}")
            if not self._reserve(half, num_bytes):
                return None
        try:
            for place, block in _placed(blocks):
                with self._explained(), half.open("r+b") as file:
                    file.seek(place)
                    file.write(block)
            with self._explained():
                descriptor = os.open(half, os.O_RDONLY | os.O_CLOEXEC)
                self._publish(half, path, num_bytes)
            return descriptor
        except BaseException:
            with contextlib.suppress(OSError), self._locked():
                half.unlink()
                self._note(self._noted() - num_bytes)
            raise

    def _reserve(self, half: Path, num_bytes: int) -> bool:
        with self._locked():
            used = self._noted()
            if used + num_bytes > self.limit:
                used = self._evict(min(self.limit - num_bytes, int(_SHARE * self.limit)))
                if used + num_bytes > self.limit:
                    self._note(used)
                    return False
            half.parent.mkdir(exist_ok=True)
            with half.open("xb") as file:
                file.truncate(num_bytes)
            self._note(used + num_bytes)
        return True

    def _publish(self, half: Path, path: Path, num_bytes: int) -> None:
        with self._locked():
            used = self._noted() - (num_bytes if path.exists() else 0)  # another process was faster
            with contextlib.suppress(FileNotFoundError):  # taken for a dead process's: then it is not kept
                os.replace(half, path)
            self._note(used)

    def _evict(self, most: int) -> int:
        """Remove the files that were not used for longest, down to so many bytes; what is there then."""
        files = list(self._files())
        used = sum(size for _, size, _ in files)
        now = time.time()
        for when, size, path in sorted(files):
            is_half = path.name.endswith(_HALF)
            if is_half and when > now - _STALE:
                continue
            if used <= most and not is_half:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for folder in self.folder.iterdir():
            if folder.is_dir() and len(folder.name) == 2:  # ours
                for path in folder.iterdir():
                    found = path.stat()
                    yield found.st_mtime, found.st_size, path

    def _noted(self) -> int:
        try:
            return int((self.folder / "bytes").read_text())
        except (FileNotFoundError, ValueError):
            return sum(size for _, size, _ in self._files())

    def _note(self, used: int) -> None:
        (self.folder / "bytes").write_text(str(used))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"--cache {self.folder} cannot be used ({error.strerror or error}). Make room on that disk or lower "
                "--cache-gb, or choose a folder that can be written on a disk of this machine."
            ) from error


def _placed(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    place = 0
    for block in blocks:
        yield place, block
        place += len(block)


def _opened(path: Path, num_bytes: int) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size != num_bytes:
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used just now; the times of reading are not kept on most disks
    return descriptor
