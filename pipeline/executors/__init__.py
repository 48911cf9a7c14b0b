"""Where work runs: in this process, in a pool of processes, or on a Ray cluster. One contract, one test suite.

An executor knows nothing of units, retries or bisection: it starts tasks and says how each one ended.
`pipeline.scheduler` decides what follows from that, the same way for all three.

Functions are named, not pickled, so a worker never needs the driver's `__main__`; they run on a worker's main thread,
and a worker keeps its modules (and what they cache) from task to task.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

State = Literal[
    "done",  # value holds what the function returned
    "raised",  # the function raised, or its result cannot be sent back; message holds the traceback
    "died",  # the process died while it ran the task
    "timeout",  # ran past the task's deadline and was killed
    "oom",  # out of memory: MemoryError, or killed for its memory where that can be known
    "lost",  # the node went away, does not see the run's files, or storage failed (an OSError about it): never the task's fault
]


@dataclass(frozen=True)
class Task:
    """One call. `function` is "module:name", importable on every worker; `payload` must pickle.

    `timeout_s` counts from the moment at which a worker starts the task; waiting for a worker is free. `sees`: groups of
    paths; where of one group none is there, the worker's machine has not mounted what the driver has, and the task is lost.
    """

    key: str
    function: str
    payload: Any
    timeout_s: float | None = None
    suspect: bool = False  # has killed a process, or is part of what has: run it where another death is cheap
    sees: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    key: str
    state: State
    value: Any = None
    message: str = ""


class Executor(Protocol):
    """Bounded: the scheduler keeps at most `slots` tasks in flight.

    `inline` runs tasks in the calling process: it has no deadline to enforce, and a task that kills its process kills
    the driver. The other two contain both.
    """

    @property
    def slots(self) -> int:
        """How many tasks can be in flight; may grow and shrink with a cluster."""

    def submit(self, task: Task) -> None:
        """Start a task. Keys are unique among the tasks in flight."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The tasks that ended, at least one unless the time ran out. Order is arrival order."""

    def recall(self) -> list[str]:
        """Take back what no worker has begun, and return the keys: of these tasks no outcome comes."""

    def close(self) -> None:
        """Abandon what is in flight and end every process that this executor started. Idempotent."""
