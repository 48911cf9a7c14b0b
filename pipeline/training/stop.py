"""SIGTERM and the first SIGINT end a run after the step under way; a second SIGINT ends it at once."""

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Stop:
    """While entered, in the main thread, `asked` says whether the run should end. Elsewhere (a Ray worker) nothing is caught."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        print("stopping after this step, with a checkpoint", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
