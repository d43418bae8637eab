"""Files that appear whole or not at all, on whatever file system a cluster has."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What file systems say that cannot sync what they are asked to: CIFS and some FUSE of folders, some of files too. A
# disk that is full or broken says something else.
_NO_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF))
_NO_OPEN = frozenset((*_NO_SYNC, errno.EISDIR, errno.EACCES, errno.EPERM))


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    # Several machines may write the same file at the same moment. A short name: that of the file may be 255 bytes.
    with removed_on_error(path.with_name(f"{uuid.uuid4().hex}.tmp")) as temporary:
        temporary.write_bytes(data)
        publish(temporary, path)


@contextmanager
def removed_on_error(temporary: Path) -> Iterator[Path]:
    """Around the writing of a file that is of no use half written: on a full disk it would take the last room."""
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a written file its name, once its bytes are on the disk.

    Where the two are on different file systems, or count as such (project quotas of Lustre, overlays), it is copied to
    beside its place first.
    """
    _sync(temporary)
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with removed_on_error(path.with_name(f"{uuid.uuid4().hex}.tmp")) as beside:
            shutil.copyfile(temporary, beside)
            _sync(beside)
            os.replace(beside, path)
        temporary.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable, where the file system can."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_OPEN:
            raise
        return
    try:
        _sync_open(fd)
    finally:
        os.close(fd)


def free_gigabytes(path: Path) -> float:
    """Room on the file system that a folder is or will be on."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 1e9


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        _sync_open(file.fileno())


def _sync_open(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
