"""What every worker does with a task: find the function, call it, and put how it ended into an Outcome."""

import errno
import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.executors import Outcome, Task

# OSErrors that speak of storage or of the way to it, not of the file that was asked for: worth another try.
STORAGE_ERRNOS = frozenset({
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO,
    errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EAGAIN, errno.EBUSY,
})  # fmt: skip

# A mount may come up a moment after its node. And a node without it must not be the fastest one to ask for the next task.
_MOUNT_S = 5.0


def resolve(function: str) -> Callable[[Any], Any]:
    """The callable named "module:name". Raises ImportError, AttributeError or ValueError when there is none."""
    module, colon, name = function.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"{function!r} names no function; allowed: 'package.module:name'")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def module_path() -> str:
    """PYTHONPATH for workers: where this process looks for modules, what a test or a notebook added included."""
    return os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)


def is_storage_failure(error: OSError) -> bool:
    """Whether the error is about storage or the network, so that the same task may succeed later or elsewhere."""
    if error.errno is None:  # raised by libraries, without a number
        return isinstance(error, ConnectionError | TimeoutError)
    return error.errno in STORAGE_ERRNOS


def _unseen(groups: tuple[tuple[str, ...], ...]) -> str | None:
    """The first path of a group of which none is there; None if every group has one."""
    return next((group[0] for group in groups if not any(os.path.exists(path) for path in group)), None)


def blind(task: Task) -> Outcome | None:
    """Lost, where this machine does not see what the driver does; without this, it would write elsewhere and blame what it reads."""
    ends_at = time.monotonic() + _MOUNT_S
    while (path := _unseen(task.sees)) is not None:
        if time.monotonic() > ends_at:
            message = (
                f"the node {socket.gethostname()} does not see {path}, which the machine that started the run does; every node needs "
                "the folders of --input and --output under the same paths: mount them there, or give URLs"
            )
            return Outcome(task.key, "lost", message=message)
        time.sleep(0.1)
    return None


def perform(task: Task) -> Outcome:
    """Run the task here. Every exception becomes an Outcome; KeyboardInterrupt and SystemExit pass through."""
    if (unseeing := blind(task)) is not None:
        return unseeing
    try:
        return Outcome(task.key, "done", resolve(task.function)(task.payload))
    except MemoryError:
        return Outcome(task.key, "oom", message=traceback.format_exc())
    except OSError as error:
        return Outcome(task.key, "lost" if is_storage_failure(error) else "raised", message=traceback.format_exc())
    except Exception:  # whatever a task raises is its result: the scheduler judges it
        return Outcome(task.key, "raised", message=traceback.format_exc())
