"""What the tests of models share: a registry of their own, servers that break off, and files that the package index has."""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from stages.perception import fetch
from stages.perception.checkpoints import CHECKPOINTS, Checkpoint

Known = Callable[..., Checkpoint]


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of checkpoints."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(folder))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.01)
    return folder


@pytest.fixture
def known(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """Puts a checkpoint into the table for one test."""

    def put(name: str = "toy", file: str = "toy.pth", license: str = "MIT", **more: Any) -> Checkpoint:
        checkpoint = Checkpoint(name, file, license, "a test", **more)
        monkeypatch.setitem(CHECKPOINTS, name, checkpoint)
        return checkpoint

    return put


class BreakingServer:
    """Serves one content at `url`, in ranges, with an ETag; breaks off where it is told to.

    cuts: after how many bytes of its body each answer in turn ends with the connection; later ones are whole. stall: instead of
    cutting, send no more and set `stalled`.
    """

    def __init__(self, content: bytes, cuts: tuple[int, ...] = (), stall: bool = False, tag: str = '"one"') -> None:
        self.content, self.cuts, self.stall, self.tag = content, list(cuts), stall, tag
        self.starts: list[int] = []  # of every answer
        self.stalled, self._end = Event(), Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/toy.pth"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        same = request.headers.get("If-Range", self.tag) == self.tag
        start = int(asked[1]) if asked and same else 0
        self.starts.append(start)
        cut = self.cuts.pop(0) if self.cuts else None
        request.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(len(self.content) - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(self.content[start:][:cut])
        if cut is None:
            return
        if self.stall:
            self.stalled.set()
            self._end.wait(60)
        request.connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "BreakingServer":
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
