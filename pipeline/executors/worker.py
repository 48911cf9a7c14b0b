"""The other end of `process.py`: `python -m pipeline.executors.worker FD PARENT` runs tasks until its pipe closes.

A worker leads a process group of its own, so that whatever a task starts can be ended with it, and Ctrl-C at the
terminal reaches the driver alone.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from pipeline.executors import Outcome, Task
from pipeline.executors.call import perform

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even in the middle of a task."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


def _ignore_requests_to_stop() -> None:
    """The driver decides when a worker ends. Handlers, not SIG_IGN, which the children of a task would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)


def _reply(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # a result that does not pickle is the task's failure, whatever its type raises
        return pickle.dumps(Outcome(outcome.key, "raised", message=f"the result does not pickle: {error!r}"))


def _run(message: bytes) -> Outcome:
    try:
        task: Task = pickle.loads(message)
    except Exception:  # a payload that this side cannot rebuild is the task's failure, not the worker's
        return Outcome("", "raised", message=traceback.format_exc())
    return perform(task)


def serve(connection: "Connection[bytes, bytes]") -> None:
    """Say that we are up, then run what comes, one task at a time, until the driver hangs up."""
    connection.send_bytes(b"")
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_reply(_run(message)))


def main() -> None:
    handle, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(handle, False)  # a task's children must not hold the pipe open
    _die_with(parent)
    _ignore_requests_to_stop()
    try:
        serve(Connection(handle))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the driver is gone, and nobody waits for the result
    finally:
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # takes along what tasks left running


if __name__ == "__main__":
    main()
