"""SIGTERM and the first SIGINT ask a long run to end in good order; a second SIGINT ends it at once (which loses nothing either)."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def stop_on_signals(said: str) -> Iterator[threading.Event]:
    """The event is set once the run is asked to end; `said` is told to the user then. Other threads than the main one (a Ray worker's)
    catch nothing. What was there before is there again afterwards."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(OSError, RuntimeError):  # nobody may be there any more to read it
            print(said, file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
