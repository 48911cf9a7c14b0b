"""Runs every task in the calling process, one at a time: for debugging, tests, and machines where nothing else runs."""

from collections import deque

from pipeline.executors import Outcome, Task
from pipeline.executors.call import perform


class InlineExecutor:
    """`submit` queues, `wait` runs one task to its end. Deadlines are not enforced: nobody is left to enforce them."""

    slots = 1

    def __init__(self) -> None:
        self._queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [perform(self._queue.popleft())] if self._queue else []

    def recall(self) -> list[str]:
        keys = [task.key for task in self._queue]
        self._queue.clear()
        return keys

    def close(self) -> None:
        self._queue.clear()
