"""What every worker does with a task: find the function, call it, and put how it ended into an Outcome."""

import errno
import importlib
import os
import sys
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


def perform(task: Task) -> Outcome:
    """Run the task here. Every exception becomes an Outcome; KeyboardInterrupt and SystemExit pass through."""
    try:
        return Outcome(task.key, "done", resolve(task.function)(task.payload))
    except MemoryError:
        return Outcome(task.key, "oom", message=traceback.format_exc())
    except OSError as error:
        return Outcome(task.key, "lost" if is_storage_failure(error) else "raised", message=traceback.format_exc())
    except Exception:  # whatever a task raises is its result: the scheduler judges it
        return Outcome(task.key, "raised", message=traceback.format_exc())
