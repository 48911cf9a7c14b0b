"""What the executor tests run on workers: tasks that end in every way in which a task can end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def double(number: int) -> int:
    return 2 * number


def size(payload: bytes) -> int:
    return len(payload)


def raise_it(error: Exception) -> None:
    raise error


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def meet(payload: dict[str, Any]) -> int:
    """Wait until as many processes as there should be are in here; returns the id of this one."""
    folder = Path(payload["path"])
    (folder / str(os.getpid())).touch()
    ends_at = time.monotonic() + 60
    while len(list(folder.iterdir())) < payload["number"]:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{os.getpid()} waited alone in {folder}")
        time.sleep(0.02)
    return os.getpid()


def sleep_and_tell(payload: dict[str, Any]) -> str:
    """Start a child that outlives the task, write both process ids where the test finds them, then sleep."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(Path(payload["path"]), f"{os.getpid()} {child.pid}")
    time.sleep(payload["seconds"])
    child.kill()
    return "slept"


def tell(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)


def log_interval(payload: dict[str, Any]) -> None:
    """Append when it began and ended to a file that all tasks share (short appends are atomic)."""
    for edge in (+1, -1):
        with open(payload["path"], "a") as log:
            log.write(f"{time.monotonic_ns()} {edge}\n")
        if edge > 0:
            time.sleep(payload["seconds"])


def unpicklable(_payload: None) -> Any:
    return threading.Lock()


class ExplodesOnArrival:
    """Pickles here, and cannot be rebuilt there."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def examine(payload: dict[str, Any]) -> dict[int, str]:
    """A unit of work in small: {item: verdict}. Some items kill, hang or exhaust the process that examines them."""
    fates: dict[int, str] = payload["fates"]
    verdicts = {}
    for item in payload["items"]:
        if item in payload["excluded"]:
            verdicts[item] = payload["excluded"][item]
            continue
        fate = fates.get(item)
        if fate == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "hangs":
            time.sleep(600)
        if fate == "exhausts":
            raise MemoryError
        verdicts[item] = "ok"
    return verdicts
