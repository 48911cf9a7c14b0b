"""A pool of worker processes in which a death costs exactly the task that the dead worker held.

Not concurrent.futures: there, one death breaks the pool and fails every task in flight. Each worker has a pipe of its
own, so a death is seen as the end of that pipe, and no lock is shared that a dead worker could hold for ever.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path

from pipeline.executors import Outcome, Task
from pipeline.executors.call import module_path

_POLL_S = 1.0  # how long a death may go unseen when a grandchild holds the pipe open
_MAX_FAILED_STARTS = 4


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot (0 where it does not say)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@dataclass(eq=False)
class _Worker:
    process: "subprocess.Popen[bytes]"
    pipe: "Connection[bytes, bytes]"
    ready: bool = False  # its interpreter is up: from here on, a deadline is fair
    task: Task | None = None
    deadline: float = float("inf")  # of time.monotonic()
    oom_kills: int = 0  # when the task began

    def start(self, task: Task) -> None:
        self.task, self.oom_kills = task, _oom_kills()
        self.deadline = time.monotonic() + (float("inf") if task.timeout_s is None else task.timeout_s)
        self.pipe.send_bytes(pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL))

    def kill(self) -> int:
        """End the worker and everything in its process group; returns its exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.pipe.close()
        return self.process.wait()


def _spawn() -> _Worker:
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "pipeline.executors.worker", str(theirs.fileno()), str(os.getpid())]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a library prints must not end up in the driver's output
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": module_path()},
    )
    theirs.close()
    return _Worker(process, ours)


class ProcessExecutor:
    """`workers` processes, started when first needed and replaced when they die.

    Linux ties a worker's life to the thread that started it, so use one executor from one long-lived thread.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.slots = workers or len(os.sched_getaffinity(0))
        self._workers: list[_Worker] = []
        self._queue: deque[Task] = deque()
        self._failed_starts = 0  # in a row
        self._closed = False

    def submit(self, task: Task) -> None:
        if self._closed:
            raise RuntimeError(f"task {task.key!r} came after close(); make a new executor")
        self._queue.append(task)
        self._dispatch()

    def wait(self, timeout_s: float) -> list[Outcome]:
        ends_at = time.monotonic() + timeout_s
        while self._queue or any(worker.task is not None for worker in self._workers):
            ended = [outcome for worker in self._listen(ends_at) if (outcome := self._hear(worker)) is not None]
            ended += self._enforce_deadlines()
            self._dispatch()
            if ended or time.monotonic() >= ends_at:
                return ended
        return []

    def recall(self) -> list[str]:
        keys = [task.key for task in self._queue]
        self._queue.clear()
        return keys

    def close(self) -> None:
        self._closed = True
        self._queue.clear()
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _dispatch(self) -> None:
        """Give queued tasks to free workers, starting workers up to the limit."""
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(self.slots, busy + len(self._queue)):
            self._workers.append(_spawn())
        for worker in [each for each in self._workers if each.ready and each.task is None]:
            if not self._queue:
                return
            try:
                worker.start(self._queue[0])
            except (BrokenPipeError, ConnectionResetError):  # died while idle: the task never reached it
                self._retire(worker)
                return self._dispatch()
            self._queue.popleft()

    def _listen(self, ends_at: float) -> list[_Worker]:
        """Workers with something to say: a result, readiness, or the end of their pipe."""
        if not self._workers:
            return []
        now = time.monotonic()
        nearest = min(ends_at, *(worker.deadline for worker in self._workers), now + _POLL_S)
        spoken = wait_for_any([worker.pipe for worker in self._workers], max(0.0, nearest - now))
        return [w for w in self._workers if w.pipe in spoken or w.process.poll() is not None]

    def _hear(self, worker: _Worker) -> Outcome | None:
        try:
            message = worker.pipe.recv_bytes() if worker.pipe.poll() else None
        except (EOFError, ConnectionResetError):
            message = None
        if message is None:
            return self._bury(worker)
        if not worker.ready:
            worker.ready, self._failed_starts = True, 0
            return None
        assert worker.task is not None
        outcome: Outcome = replace(pickle.loads(message), key=worker.task.key)
        worker.task, worker.deadline = None, float("inf")
        return outcome

    def _bury(self, worker: _Worker) -> Outcome | None:
        """A worker is gone: say so for the task it held, if it held one."""
        task, kills_before = worker.task, worker.oom_kills
        status = self._retire(worker)
        if task is None:
            self._failed_starts += not worker.ready
            if self._failed_starts > _MAX_FAILED_STARTS:  # it would go on for ever
                raise RuntimeError(f"worker processes do not start (exit status {status}); their stderr says why")
            return None
        if status == -signal.SIGKILL and _oom_kills() > kills_before:
            return Outcome(task.key, "oom", message="the kernel killed the worker process for its memory")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return Outcome(task.key, "died", message=f"the worker process ended with {how}")

    def _enforce_deadlines(self) -> list[Outcome]:
        ended, now = [], time.monotonic()
        for worker in [each for each in self._workers if each.deadline <= now]:
            task = worker.task
            self._retire(worker)
            if task is not None:
                ended.append(Outcome(task.key, "timeout", message=f"ran past its deadline of {task.timeout_s:g} s"))
        return ended

    def _retire(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.kill()
