"""What a parser of untrusted input may not do while it parses: write, start a process, connect, unpickle, run on, fill the memory.

Python's own calls are watched by an audit hook, which stays for the process's life and looks away outside `watching`. What libraries
written in C do is seen in a listing of the input's folder and of what lies around it, before and after.
"""

import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stages.media.memory import mapped_bytes
from stages.storage.cache import PREFIX

MEMORY_MB = 1024  # address space that one example may ask for: libraries' threads and pools included
CPU_S = 10.0  # of one example

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.putenv", "subprocess.Popen", "socket.connect", "socket.bind"),
    *("pickle.find_class", "webbrowser.open"),
)
# Members of archives that are unpacked, and of shards for the report's pictures: under names of ours, in our own folders
# (stages.storage.cache, pipeline.report.footage).
_COPY = re.compile(
    re.escape(tempfile.gettempdir() + os.sep)
    + f"({re.escape(PREFIX)}[A-Za-z0-9_.-]+(/[0-9]{{8}}(/[^/]+)?)?"
    + r"|parallax-report-[a-z0-9_]+(/member[0-9]+\.media)?)"
)

_OF_COPIES = ("os.mkdir", "os.remove", "os.rmdir")


class Forbidden(BaseException):
    """Something was done that no parser may do. No `except Exception` hides it."""


class TooSlow(BaseException):
    """An example took more processor time than it may."""


class _Watch:
    """sandbox: whether `stages.media.sandbox` may start its child."""

    active: "_Watch | None" = None
    installed = False

    def __init__(self, sandbox: bool) -> None:
        self.sandbox = sandbox
        self.seen: list[Forbidden] = []

    def _allowed(self, name: str, args: tuple[Any, ...]) -> bool:
        if name in _OF_COPIES:
            return _COPY.fullmatch(_whole(str(args[0]), args[-1])) is not None
        return self.sandbox and name in ("subprocess.Popen", "os.fork") and "stages.media.child" in str(args)

    def event(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open":
            path, mode, flags = args
            writes = bool(flags & _WRITES) if isinstance(flags, int) else any(letter in str(mode) for letter in "wax+")
            if not writes or "__pycache__" in str(path) or str(path) == os.devnull:
                return
            if self.sandbox and str(path) == tempfile.gettempdir():
                return  # the child's stderr: a file without a name
            if _COPY.fullmatch(str(path)):
                return
        elif name not in _CHANGES or self._allowed(name, args):
            return
        self.seen.append(Forbidden(f"{name}{args!r:.300}"))
        raise self.seen[-1]


def _whole(path: str, folder: int) -> str:
    """A path that is relative to an open folder, from its root on."""
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if folder >= 0 and not os.path.isabs(path) else path


def _audit(name: str, args: tuple[Any, ...]) -> None:
    if _Watch.active is not None:
        _Watch.active.event(name, args)


@contextmanager
def watching(folder: Path, sandbox: bool = False, memory_mb: int | None = MEMORY_MB) -> Iterator[None]:
    """Raises Forbidden for what is done inside the block, TooSlow; MemoryError where too much is asked for; what overflows is an error.
    Forbidden comes before whatever the block raises.

    folder: of the input; it and what lies beside it must be the same afterwards.
    """
    if not _Watch.installed:
        sys.addaudithook(_audit)
        _Watch.installed = True
    before, watch = _listing(folder.parent), _Watch(sandbox)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGVTALRM, _too_slow)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)  # what NumPy says of numbers that run over
            if memory_mb is not None:
                resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + (memory_mb << 20), hard))
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
            _Watch.active = watch
            yield
    finally:
        _Watch.active = None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        # Of an input that was refused, too: what is raised here takes the refusal's place.
        if watch.seen:
            raise watch.seen[0]
        if (after := _listing(folder.parent)) != before:
            raise Forbidden(f"files changed: {sorted(set(before.items()) ^ set(after.items()))!r:.500}")


def _too_slow(signum: int, frame: FrameType | None) -> None:
    raise TooSlow(f"more than {CPU_S:g} s of processor time")


def _listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below: type and mode, size, mtime."""
    found = {}
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                found[entry.path] = (status.st_mode, 0 if is_folder else status.st_size, 0 if is_folder else status.st_mtime_ns)
                if is_folder:
                    waiting.append(entry.path)
    return found
