"""A lock that a run holds on a folder, on file systems that lock and on those that do not.

Where there is `flock`, it is that: it goes with the process, however it ends. Elsewhere (Lustre mounted without it,
some FUSE) it is a file that names its owner and in which the owner counts. Whether an owner is alive is asked of this
machine where it is the owner's, else seen by whether it counts on: no clock is compared with another's.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger("modist")

_HELD = frozenset((errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES))
_BEAT = 2.0  # seconds between counts
_WATCH = 15.0  # seconds without a count after which an owner on another machine is gone
_ATTEMPTS = 3


class HeldError(Exception):
    """Another run holds the lock; says which, where it is known."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is not there.

    Raises:
        HeldError: another run holds it.
        OSError: the file cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise HeldError(_named(_read(path))) from None
            has_flock = False
        else:
            has_flock = True
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(_identity()).encode(), 0)  # for the words of whoever finds it held
        if has_flock:
            yield
        else:
            with _owned(path.with_name(f"{path.name}.owner")):
                yield
    finally:
        os.close(fd)


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    me = _identity()
    _acquire(path, me)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, me, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        if _read(path).get("token") == me["token"]:
            path.unlink(missing_ok=True)


def _acquire(path: Path, me: dict[str, Any]) -> None:
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            owner = _read(path)
            if _is_alive(path, owner):
                raise HeldError(_named(owner)) from None
            _clear(path, owner)
            continue
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(me).encode())
        return
    raise HeldError("another process that began at the same moment")


def _named(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "another process"


def _beat(path: Path, me: dict[str, Any], stop: threading.Event) -> None:
    count = 0
    while not stop.wait(_BEAT):
        count += 1
        with contextlib.suppress(OSError):  # a full disk, say; the run itself will find out
            fd = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(fd, json.dumps({**me, "count": count}).encode(), 0)
                with contextlib.suppress(OSError):
                    os.fsync(fd)
            finally:
                os.close(fd)


def _is_alive(path: Path, owner: dict[str, Any]) -> bool:
    me = _identity()
    if all(owner.get(key) == me[key] for key in ("host", "boot", "namespace")):
        return owner.get("start") == _start_time(owner.get("pid"))
    logger.info("%s: a run on %s may be at work: looking for %.0f s whether it is", path, owner.get("host"), _WATCH)
    deadline = time.monotonic() + _WATCH
    while time.monotonic() < deadline:
        time.sleep(min(0.5, _BEAT / 4))
        now = _read(path)
        if now != owner and now:
            return True
        if not path.exists():
            return False
    return False


def _clear(path: Path, owner: dict[str, Any]) -> None:
    """Remove the file of an owner that is gone; of two that do so at once, one finds it gone."""
    aside = path.with_name(f"{uuid.uuid4().hex}.owner")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside).get("token") != owner.get("token"):  # it is another's, who was faster
            with contextlib.suppress(OSError):
                os.rename(aside, path)
            raise HeldError("another process that began at the same moment")
        aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "start": _start_time(os.getpid()),
        "token": uuid.uuid4().hex,
        "count": 0,
    }


def _start_time(pid: Any) -> str | None:
    """When a process of this machine began, in ticks; None where there is none."""
    stat = _text(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
