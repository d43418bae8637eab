"""Servers for tests, over real connections: of files with ranges, which can be told to fail, and of S3."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from modist_pipelines.remote import access

SECRET = "hunter2hunter2"


class FileServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        cuts: answers with content, of each path, that break off in their middle before one is whole.
        denied: parts of paths that get a 403.
        key: what has to stand behind "?".
        requests: (method, path, range) of all so far.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.cuts: Counter[str] = Counter()
        self.denied: set[str] = set()
        self.key = ""
        self.has_ranges = True
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self, part: str = "") -> list[str | None]:
        """Ranges of the GETs of paths with this part."""
        return [span for method, path, span in self.requests if method == "GET" and part in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_content: bool) -> None:
        parts = urlsplit(self.path)
        span = self.headers.get("Range")
        self.server.requests.append((self.command, parts.path, span))
        path = self.server.folder / parts.path.lstrip("/")
        if any(part in parts.path for part in self.server.denied) or parts.query != self.server.key:
            return self._empty(403)
        if not path.is_file():
            return self._empty(404)
        data, status = path.read_bytes(), 200
        size = len(data)
        if span is not None and self.server.has_ranges:
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or size - 1) + 1, size)
            data, status = data[begin:end], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")  # pyright: ignore[reportPossiblyUnbound]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        if not with_content:
            return None
        if self.server.cuts[parts.path] > 0:
            self.server.cuts[parts.path] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        self.wfile.write(data)
        return None

    def _empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A server of a folder, until the end of the block."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server(nowhere: Path) -> Iterator[dict[str, str]]:
    """An S3 server, until the end of the block; the environment that leads to it, and to no file of the user's."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(nowhere),
            "AWS_SHARED_CREDENTIALS_FILE": str(nowhere),
        }
    finally:
        server.stop()


def make_bucket(name: str) -> str:
    """Its URL."""
    name = name.replace("_", "-").lower()  # servers of one process share their buckets
    access._system(os.getpid(), "s3").mkdir(name)
    return f"s3://{name}"


def upload(folder: Path, url: str) -> None:
    """Copy all files of a folder."""
    system = access._system(os.getpid(), "s3")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
