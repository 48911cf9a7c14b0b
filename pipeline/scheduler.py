"""The one driver loop. An executor says how a task ended; here is decided what follows, the same way for all executors.

    done              the work is done
    died, oom         once more; after the second time, find the culprits
    timeout           find the culprits at once: a second wait for the whole deadline would teach nothing
    lost              once more after a pause that doubles; a limited number of times; blames nothing and nobody
    raised            a bug, or a fault of a moment: once more, then the work has failed and the run goes on

Finding the culprits: trial tasks, which commit nothing, run parts of the work; a part that ends badly is split again,
down to single items. Many small parts rather than two halves: a dead worker costs seconds, an extra task milliseconds,
and every level of splitting costs a death for each culprit. Then the whole work runs again without the culprits, and
commits, an error row for each of them included. Trials run beside other works. If no trial ends badly, the whole work
gets a last attempt with twice the deadline.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from pipeline.executors import Executor, Outcome, State, Task
from schemas.verdict import Reason


class Work(Protocol):
    """Something to be done in one task, made of `n_items` items that can be tried, and left out, one by one."""

    @property
    def n_items(self) -> int: ...

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        """The task for the whole work and its commit (items None), or for a trial of some items that commits nothing.

        `excluded` are items not to be touched, with the reason and message that become their error rows. A trial's
        deadline is to be proportionally smaller. Keys are unique among the works and trials of a run.
        """


AnyWork = TypeVar("AnyWork", bound=Work)


@dataclass(frozen=True)
class Policy:
    """How often, and after what pause."""

    attempts_killed: int = 2  # deaths of the whole work before its culprits are looked for
    attempts_raised: int = 2  # exceptions before a work has failed
    attempts_lost: int = 8  # losses of a node, or failures of storage, before a work has failed
    rounds: int = 3  # searches for culprits before a work has failed
    fan_out: int = 64  # parts into which a suspicious range is split
    backoff_s: float = 1.0  # pause after the first loss; doubles with each further one
    backoff_max_s: float = 60.0
    grace_s: float = 30.0  # for tasks in flight, once asked to stop


@dataclass
class Summary:
    """What became of the works. `abandoned` were in flight, or waiting for another attempt, when the run was stopped."""

    done: int = 0
    failed: int = 0
    abandoned: int = 0
    stopped: bool = False


# Messages are part of the manifest, which must not depend on where a run ran: they name no signal, process or host.
_FOUND = "found by running the unit in parts"
_BLAME: dict[State, tuple[Reason, str]] = {
    "died": (Reason.E_CRASH, f"killed the worker process that examined it ({_FOUND}); look at the file itself"),
    "oom": (Reason.E_OOM, f"ran a worker process out of memory ({_FOUND}); give workers more memory, then --retry-errors"),
    "timeout": (Reason.E_TIMEOUT, f"ran past its share of the unit's deadline ({_FOUND}); --retry-errors tries it again"),
}

_POLL_S = 0.2  # how long a request to stop may go unseen


@dataclass(eq=False)
class _State:
    """Where one work stands."""

    work: Any
    attempts: int = 0  # tasks started for the whole work
    killed: int = 0  # of these, since the last search
    rounds: int = 0  # searches for culprits begun
    trials: int = 0  # of the search under way, queued or in flight
    found: int = 0  # culprits found by the search under way
    excluded: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    last: bool = False  # the attempt under way is the last
    over: bool = False


@dataclass(eq=False)
class _Job:
    """A task to run, or running: the whole work (items None) or a trial."""

    state: _State
    items: range | None = None
    raised: int = 0
    lost: int = 0  # counted by task: one lost node may have run many trials of one work

    def task(self) -> Task:
        state = self.state
        task = state.work.task(self.items, state.excluded)
        if state.last and task.timeout_s is not None:
            task = replace(task, timeout_s=2 * task.timeout_s)
        return replace(task, suspect=state.killed > 0 or state.rounds > 0)


def split(items: range, parts: int) -> list[range]:
    """Contiguous parts of sizes that differ by one at most; as many as there are items if that is fewer."""
    parts = min(parts, len(items))
    edges = [items.start + len(items) * i // parts for i in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def run(
    executor: Executor,
    works: Iterable[AnyWork],
    *,
    on_done: Callable[[AnyWork, Any, int], None],
    on_failed: Callable[[AnyWork, Outcome], None],
    on_lost: Callable[[AnyWork, Outcome], None] = lambda work, outcome: None,
    stop: threading.Event | None = None,
    max_in_flight: int | None = None,
    policy: Policy | None = None,
    sees: tuple[tuple[str, ...], ...] = (),
) -> Summary:
    """Bring every work to its end. Works are taken one by one, as there is room for them.

    on_done gets the work, the value its task returned, and how many attempts at the whole it took; on_failed gets the
    last outcome, on_lost one that is followed by another attempt. All run in the calling thread, between tasks; what they
    raise ends the run. Once `stop` is set no task is started, those that run have `policy.grace_s` to end, and what is left
    is abandoned: the caller closes the executor, and a later run does those works. At most `max_in_flight` tasks (default:
    executor.slots) run at a time; nothing is kept of a work that is over. `sees` goes into every task (executors.Task).
    """
    loop = _Loop(executor, iter(works), on_done, on_failed, on_lost, max_in_flight, policy or Policy(), sees)
    return loop.run(stop or threading.Event())


class _Loop:
    def __init__(
        self,
        executor: Executor,
        works: Iterator[Any],
        on_done: Callable[[Any, Any, int], None],
        on_failed: Callable[[Any, Outcome], None],
        on_lost: Callable[[Any, Outcome], None],
        max_in_flight: int | None,
        policy: Policy,
        sees: tuple[tuple[str, ...], ...],
    ) -> None:
        self.executor, self.works = executor, works
        self.on_done, self.on_failed, self.on_lost = on_done, on_failed, on_lost
        self.max_in_flight, self.policy, self.sees = max_in_flight, policy, sees
        self.queue: list[tuple[float, int, _Job]] = []  # heap by the time at which a job is due
        self.order = itertools.count()
        self.flying: dict[str, _Job] = {}
        self.exhausted = False
        self.summary = Summary()

    def run(self, stop: threading.Event) -> Summary:
        while not stop.is_set():
            self.feed(stop)
            if self.flying:
                self.hear(_POLL_S)
            elif not self.queue:  # nothing to run, and feed() found no further work
                return self.summary
            else:
                stop.wait(min(_POLL_S, max(0.0, self.queue[0][0] - time.monotonic())))
        unbegun = [self.flying.pop(key) for key in self.executor.recall()]
        ends_at = time.monotonic() + self.policy.grace_s
        while self.flying and time.monotonic() < ends_at:
            self.hear(min(_POLL_S, max(0.0, ends_at - time.monotonic())))
        left = [job.state for job in (*unbegun, *self.flying.values())] + [job.state for _, _, job in self.queue]
        self.summary.abandoned = len({id(state) for state in left if not state.over})
        self.summary.stopped = True
        return self.summary

    def feed(self, stop: threading.Event) -> None:
        """Start what there is room for: retries and trials that are due first, then new works."""
        room = (self.max_in_flight or self.executor.slots) - len(self.flying)
        while room > 0 and not stop.is_set() and (job := self.next_job()) is not None:
            task = replace(job.task(), sees=self.sees)
            if task.key in self.flying:
                raise ValueError(f"two tasks in flight have the key {task.key!r}; the works of a run need keys of their own")
            if job.items is None:
                job.state.attempts += 1
            self.flying[task.key] = job
            self.executor.submit(task)
            room -= 1

    def next_job(self) -> _Job | None:
        while self.queue and self.queue[0][0] <= time.monotonic():
            job = heapq.heappop(self.queue)[2]
            if not job.state.over:
                return job
        if self.exhausted:
            return None
        for work in self.works:
            return _Job(_State(work))
        self.exhausted = True
        return None

    def enqueue(self, job: _Job, pause_s: float = 0.0) -> None:
        heapq.heappush(self.queue, (time.monotonic() + pause_s, next(self.order), job))

    def hear(self, timeout_s: float) -> None:
        for outcome in self.executor.wait(timeout_s):
            job = self.flying.pop(outcome.key)
            if not job.state.over:
                self.settle(job, outcome)

    def settle(self, job: _Job, outcome: Outcome) -> None:
        state, policy = job.state, self.policy
        if outcome.state == "done":
            if job.items is None:
                state.over = True
                self.summary.done += 1
                self.on_done(state.work, outcome.value, state.attempts)
            else:
                self.trial_ended(state)
        elif outcome.state == "lost":
            job.lost += 1
            pause = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** (job.lost - 1))
            self.again_or_fail(job, outcome, job.lost < policy.attempts_lost, pause)
        elif outcome.state == "raised":
            job.raised += 1
            self.again_or_fail(job, outcome, job.raised < policy.attempts_raised)
        elif job.items is None:
            self.whole_killed(job, outcome)
        else:
            self.trial_killed(state, job.items, outcome)

    def again_or_fail(self, job: _Job, outcome: Outcome, again: bool, pause_s: float = 0.0) -> None:
        if again:
            if outcome.state == "lost":
                self.on_lost(job.state.work, outcome)
            self.enqueue(job, pause_s)
        else:
            self.fail(job.state, outcome)

    def fail(self, state: _State, outcome: Outcome) -> None:
        state.over = True
        self.summary.failed += 1
        self.on_failed(state.work, outcome)

    def whole_killed(self, job: _Job, outcome: Outcome) -> None:
        state = job.state
        state.killed += 1
        suspects = state.work.n_items - len(state.excluded)
        if state.last or suspects == 0 or state.rounds == self.policy.rounds:
            self.fail(state, outcome)
        elif outcome.state != "timeout" and state.killed < self.policy.attempts_killed:
            self.enqueue(job)
        else:
            self.search(state, outcome)

    def search(self, state: _State, outcome: Outcome) -> None:
        """Begin to look for the culprits: run the work in parts."""
        state.rounds, state.killed, state.found = state.rounds + 1, 0, 0
        suspects = [item for item in range(state.work.n_items) if item not in state.excluded]
        if len(suspects) == 1:  # there is nobody else
            state.excluded[suspects[0]] = _BLAME[outcome.state]
            self.enqueue(_Job(state))
        else:
            self.try_parts(state, range(state.work.n_items))

    def try_parts(self, state: _State, items: range) -> None:
        for part in split(items, self.policy.fan_out):
            if any(item not in state.excluded for item in part):
                state.trials += 1
                self.enqueue(_Job(state, part))

    def trial_killed(self, state: _State, items: range, outcome: Outcome) -> None:
        suspects = [item for item in items if item not in state.excluded]
        if len(suspects) == 1:
            state.excluded[suspects[0]] = _BLAME[outcome.state]
            state.found += 1
        else:
            self.try_parts(state, items)
        self.trial_ended(state)

    def trial_ended(self, state: _State) -> None:
        state.trials -= 1
        if state.trials == 0:  # the search is over
            state.last = state.found == 0
            self.enqueue(_Job(state))
