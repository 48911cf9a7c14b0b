"""Reading processes: how they meet signals, and what happens when one dies.

PyTorch's handler of SIGCHLD raises in whatever runs when a worker has died, be it a checkpoint half written. Here the death is
noticed where a step is waited for, and nowhere else; the other workers are killed, so that the run can end.
"""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


class WorkerDied(Exception):
    """A reading process ended by itself. The message says how, why that happens and what to change."""


def watched(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """What the iterator of a DataLoader gives. start: makes it, and with it the workers. Raises WorkerDied.

    Seen at once where the workers are forked in the main thread, else after five seconds without an item.
    """
    others = multiprocessing.active_children()
    items = start()
    workers = [child for child in multiprocessing.active_children() if child not in others]
    waiting = _OnlyWhileWaiting.installed()
    kill = partial(_kill, workers)
    atexit.register(kill)  # before multiprocessing's own end, which would wait for workers that leave its SIGTERM to us
    try:
        while True:
            try:
                with waiting:
                    item = next(items)
            except StopIteration:
                return
            except RuntimeError:
                codes = [worker.exitcode for worker in workers if worker.exitcode]
                if not codes:
                    raise
                kill()
                raise WorkerDied(_why(codes[0])) from None
            yield item
    finally:
        atexit.unregister(kill)


def leave_signals_to_the_parent() -> None:
    """Ctrl-C and a batch system's SIGTERM go to every process of a job: the training process finishes its step and ends its workers.

    A worker that died of them would end the step as well. A second SIGTERM ends the worker, so one that hangs can be ended; one
    whose parent is gone ends within seconds, which PyTorch sees to.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class _OnlyWhileWaiting:
    """Stands before PyTorch's handler of SIGCHLD, and passes the signal on while entered."""

    def __init__(self, handler: _Handler | None) -> None:
        self._handler, self._entered = handler, False

    @classmethod
    def installed(cls) -> "_OnlyWhileWaiting":
        """The one of this process; one without effect outside the main thread, where PyTorch installs no handler either."""
        if threading.current_thread() is not threading.main_thread():
            return cls(None)
        handler = signal.getsignal(signal.SIGCHLD)
        if isinstance(handler, cls):
            return handler
        made = cls(handler if callable(handler) else None)
        if made._handler is not None:
            signal.signal(signal.SIGCHLD, made)
        return made

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._entered and self._handler is not None:
            self._handler(number, frame)

    def __enter__(self) -> None:
        if self._handler is not None:
            self._handler(signal.SIGCHLD, None)  # a worker may have died since the last step
        self._entered = True

    def __exit__(self, *_: object) -> None:
        self._entered = False


def _kill(workers: Sequence[BaseProcess]) -> None:
    """They only read, so nothing is lost."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def _why(code: int) -> str:
    """code: as multiprocessing has it, the negative number of the signal that ended the process."""
    if code > 0:
        return f"a reading process died (exit status {code}); what it wrote before may say why"
    want = "room in /dev/shm" if -code == signal.SIGBUS else "memory"
    return (
        f"a reading process died (signal {-code}), most likely for want of {want}: "
        "fewer --workers, fewer --frames, a smaller --size or a smaller --batch"
    )
