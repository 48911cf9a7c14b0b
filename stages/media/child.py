"""The decoding child: `python -m stages.media.child SOCKET_FD PARENT_PID MEMORY_MB`. Started by `stages.media.sandbox` only.

Requests come as a length and a pickle of (function, args): the parent is trusted. Answers leave as `stages.media.wire`.
"""

import ctypes
import errno
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

from schemas.verdict import CandidateError
from stages.media import memory, wire
from stages.storage.paths import storage_error

REQUEST_LENGTH = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1
_LARGEST_FILE = 16 << 20  # what it may write: messages and byte code, never media


def main() -> None:
    """Serve requests until the parent closes the socket."""
    fd, parent, memory_mb = (int(argument) for argument in sys.argv[1:4])
    _tie_to(parent)
    connection = socket.socket(fileno=fd)
    _load_libraries()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    memory.limit_memory(memory_mb)
    _send(connection, "ready")
    while (request := _next_request(connection)) is not None:
        answer = _answer(request)
        del request
        _send(connection, answer)


def function_named(name: str) -> Callable[..., Any]:
    """The callable "module:name" or "module:Class.name". Raises ValueError, ImportError or AttributeError."""
    module, separator, path = name.partition(":")
    if not separator or not path:
        raise ValueError(f"a function is named 'module:callable', got {name!r}")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name!r} is not callable")
    return found  # type: ignore[no-any-return]


def _tie_to(parent: int) -> None:
    """Die with the parent; leave its terminal's and its scheduler's signals to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def _load_libraries() -> None:
    import av.logging
    import cv2

    av.logging.set_level(None)
    cv2.setNumThreads(1)


def _next_request(connection: socket.socket) -> Any:
    head = _receive(connection, REQUEST_LENGTH.size)
    if head is None:
        return None
    body = _receive(connection, REQUEST_LENGTH.unpack(head)[0])
    return None if body is None else pickle.loads(body)


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes, or None when the parent is gone."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if count == 0:
            return None
        done += count
    return data


def _answer(request: tuple[str, tuple[Any, ...]]) -> list[wire.Buffer]:
    function, args = request
    requests = sys.modules.get("stages.media.requests")
    if requests is not None and function != "stages.media.requests:chunk":
        requests.drop()  # whoever was being streamed to has left, or begins anew
    try:
        return wire.pack({"value": function_named(function)(*args)})
    except CandidateError as error:
        return wire.pack({"candidate": [str(error.reason), error.message]})
    except Exception as error:  # reported to the parent, which raises it there
        if out_of_memory(error):
            return wire.pack({"oom": str(error) or type(error).__name__})
        if isinstance(error, OSError) and error.errno == errno.EIO:
            return wire.pack({"candidate": [str((failed := storage_error(error, str(error.filename))).reason), failed.message]})
        return wire.pack({"raised": traceback.format_exc()})


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed: Python's, FFmpeg's or OpenCV's way."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    cv2 = sys.modules.get("cv2")
    return cv2 is not None and isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem


def _send(connection: socket.socket, message: Any) -> None:
    for piece in message if isinstance(message, list) else wire.pack(message):
        connection.sendall(piece)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the parent is gone; nobody is left to tell
