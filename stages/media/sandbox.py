"""A child process that runs calls for its parent, and may die of them.

It has its own session, no core dumps, a limit on its address space (`stages.media.memory`) and ends with its parent. What
became of a call: a value; CandidateError raised by the function itself; E_TIMEOUT (killed with its whole process group);
E_CRASH (died by a signal, or left); E_OOM (an allocation failed, or the kernel killed it); SandboxError (any other exception).
A library that does not check an allocation dies by SIGSEGV instead of saying so; that shows as E_CRASH.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from typing import IO, Any

from schemas.recipe import MediaLimits
from schemas.verdict import ERRORS, SKIPS, CandidateError, Reason
from stages.media import wire

_START_S = 120.0  # to import the libraries, on a loaded machine and cold storage
_SOCKET_BUFFER = 1 << 20
_QUOTED = 2000  # bytes of the child's stderr that a message repeats
# One thread per worker; each further thread would reserve address space for its buffers too.
_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")


class SandboxError(RuntimeError):
    """An exception that a function in the child did not turn into a CandidateError, with its traceback: a bug of ours."""


class Sandbox:
    """Runs "module:callable" in a child process under limits. Calls from several threads take turns."""

    def __init__(self, limits: MediaLimits) -> None:
        self.limits = limits
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def call(self, function: str, *args: Any, spare_s: float = 0.0) -> Any:
        """function(*args), evaluated in the child. The arguments must pickle; see `stages.media.wire` for what may return.

        spare_s: what the function may take beyond the limit, where it watches the clock itself.
        """
        with self._lock:
            child = self._running()
            deadline = time.monotonic() + self.limits.timeout_s + spare_s
            try:
                child.send((function, args), deadline)
                answer = child.receive(deadline, self.limits.memory_mb << 20)
            except TimeoutError:
                self._discard()
                limit = f"{self.limits.timeout_s:g} s (media.timeout_s)"
                raise CandidateError(Reason.E_TIMEOUT, f"{function} ran past {limit} and was killed") from None
            except (EOFError, ConnectionError):
                reason, message = child.cause_of_death()
                self._discard()
                raise CandidateError(reason, f"{function}: {message}") from None
            except wire.WireError as error:
                self._discard()
                raise CandidateError(Reason.E_CRASH, f"{function}: the decoder's answer was no answer ({error})") from None
            except BaseException:  # KeyboardInterrupt included: the answer to this call must not be taken for the next one's
                self._discard()
                raise
            return self._value(function, answer)

    def close(self) -> None:
        """End the child. Idempotent."""
        with self._lock:
            self._discard()

    def _running(self) -> "_Child":
        """The child, started anew when it died since the last call, or when this process is a fork of the one that had it."""
        if self._child is None or not self._child.usable():
            self._discard()
            self._child = _Child(self.limits.memory_mb)
        return self._child

    def _discard(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _value(self, function: str, answer: Any) -> Any:
        if isinstance(answer, dict) and len(answer) == 1:
            [(kind, content)] = answer.items()
            if kind == "value":
                return content
            if kind == "candidate" and isinstance(content, list) and len(content) == 2 and content[0] in [*ERRORS, *SKIPS]:
                raise CandidateError(Reason(content[0]), str(content[1]))
            if kind == "oom":
                self._discard()
                raise CandidateError(Reason.E_OOM, f"{function} needed more than {self.limits.memory_mb} MB (media.memory_mb): {content}")
            if kind == "raised":
                raise SandboxError(f"{function} raised in the sandbox:\n{content}")
        self._discard()
        raise CandidateError(Reason.E_CRASH, f"{function}: the decoder's answer was no answer")


class _Child:
    """One child process and the socket to it."""

    def __init__(self, memory_mb: int) -> None:
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        environment = os.environ | _SINGLE_THREADED | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stages.media.child", str(theirs.fileno()), str(self._owner), str(memory_mb)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,
            )
        self._finalizer = weakref.finalize(self, _end, self._process, self._socket, self._owner)
        try:
            self.receive(time.monotonic() + _START_S, 0)
        except (TimeoutError, EOFError, ConnectionError, wire.WireError):
            self.end()
            raise RuntimeError(f"the decoding process could not start; it said:\n{self._last_words()}") from None

    def usable(self) -> bool:
        return os.getpid() == self._owner and self._process.poll() is None

    def send(self, request: Any, deadline: float) -> None:
        body = pickle.dumps(request, protocol=5)
        for piece in (len(body).to_bytes(8, "little"), body):
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(piece)

    def receive(self, deadline: float, max_bytes: int) -> Any:
        """One message. Raises TimeoutError, EOFError, ConnectionError or WireError."""

        def exactly(size: int) -> bytearray:
            data = bytearray(size)
            view, done = memoryview(data), 0
            while done < size:
                self._socket.settimeout(_left(deadline))
                count = self._socket.recv_into(view[done:])
                if count == 0:
                    raise EOFError
                done += count
            return data

        return wire.unpack(exactly, max_bytes)

    def cause_of_death(self) -> tuple[Reason, str]:
        """Why it hung up, as a reason and a message."""
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return Reason.E_CRASH, "the decoder hung up without ending"
        said = self._last_words()
        if status == -signal.SIGKILL:
            return Reason.E_OOM, "the decoder was killed from outside, most likely by the kernel for want of memory"
        if "bad_alloc" in said or "MemoryError" in said:
            return Reason.E_OOM, f"the decoder ended for want of memory: {said}"
        how = f"died by {signal.Signals(-status).name}" if status < 0 else f"left with exit status {status}"
        return Reason.E_CRASH, f"the decoder {how}{': ' + said if said else ''}"

    def end(self) -> None:
        self._finalizer()

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _QUOTED))
        return self._stderr.read().decode(errors="replace").strip()


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, owner: int) -> None:
    connection.close()
    if os.getpid() != owner:  # a fork's copy: the child belongs to somebody else
        return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
