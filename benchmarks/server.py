"""A web server that answers byte ranges, with a delay before every answer as object stores have one; counts what it does.

It lists its folders as web servers do, by pages of links.
"""

import contextlib
import html
import os
import re
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from urllib.parse import quote, unquote


class RangeServer:
    """Serves the files below `folder` at `url` while the block runs.

    latency_s: before every answer. fail_first: so many requests get 503. ranges: False answers every request with the whole file.
    pages: False hides what lies in folders.
    """

    def __init__(self, folder: Path, latency_s: float = 0.0, fail_first: int = 0, ranges: bool = True, pages: bool = True) -> None:
        self.folder, self.latency_s, self.fail_first, self.ranges, self.pages = folder.resolve(), latency_s, fail_first, ranges, pages
        self.requests = 0
        self.bytes_sent = 0
        self._lock = Lock()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def count(self, sent: int) -> int:
        """One more request; returns its number from 1."""
        with self._lock:
            self.requests += 1
            self.bytes_sent += sent
            return self.requests

    def __enter__(self) -> "RangeServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: RangeServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the reader has seen enough
            super().handle()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        ours = self.server_of
        time.sleep(ours.latency_s)
        if ours.count(0) <= ours.fail_first:
            return self._empty(HTTPStatus.SERVICE_UNAVAILABLE)
        path = (ours.folder / unquote(self.path.partition("?")[0]).lstrip("/")).resolve()
        if ours.pages and path.is_relative_to(ours.folder) and path.is_dir():
            return self._page(path, body)
        if not path.is_relative_to(ours.folder) or not path.is_file():
            return self._empty(HTTPStatus.NOT_FOUND)
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")) if ours.ranges else None
        start, stop = 0, size
        if asked:
            start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
            stop = min(size, int(asked[2]) + 1) if asked[1] and asked[2] else size
            if start >= size:
                return self._empty(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        if ours.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if body:
            self._send(path, start, stop)

    def _send(self, path: Path, start: int, stop: int) -> None:
        self.wfile.flush()
        with path.open("rb") as file:
            while start < stop:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)
                start += sent
                with self.server_of._lock:
                    self.server_of.bytes_sent += sent

    def _page(self, folder: Path, body: bool) -> None:
        names = [f"{path.name}/" if path.is_dir() else path.name for path in sorted(folder.iterdir())]
        links = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>' for name in ["../", *names])
        page = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)

    def _empty(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""
