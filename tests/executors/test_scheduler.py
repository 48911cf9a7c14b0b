"""What the driver loop makes of outcomes: with scripted outcomes for what cannot be provoked (a lost node), and with
real deaths, hangs and exhaustion on the executors that contain them."""

import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.executors import Executor, Outcome, State, Task
from pipeline.executors.factory import make_executor
from pipeline.executors.ray import RayExecutor
from pipeline.scheduler import Policy, Summary, run, split
from schemas.verdict import Reason

BRISK = Policy(backoff_s=0.001, backoff_max_s=0.002, grace_s=5.0)
REASONS = {"kills": Reason.E_CRASH, "hangs": Reason.E_TIMEOUT, "exhausts": Reason.E_OOM}


@dataclass
class Batch:
    """A work of n items, some of which end badly."""

    name: str
    n_items: int
    fates: dict[int, str] = field(default_factory=dict)
    seconds_per_item: float | None = None

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        key = self.name if items is None else f"{self.name}[{items.start}:{items.stop}]"
        items = range(self.n_items) if items is None else items
        payload = {"items": items, "excluded": {item: str(reason) for item, (reason, _) in excluded.items()}, "fates": self.fates}
        return Task(key, "executor_jobs:examine", payload, self.seconds_per_item and max(2.0, self.seconds_per_item * len(items)))

    def truth(self) -> dict[int, str]:
        return {item: str(REASONS[self.fates[item]]) if item in self.fates else "ok" for item in range(self.n_items)}


class Scripted:
    """An executor in which `behave` says how each task ends. Outcomes arrive in the opposite order of submission."""

    slots = 3

    def __init__(self, behave: Callable[[Task], Outcome]) -> None:
        self.behave, self.flying, self.most, self.started = behave, [], 0, Counter[str]()

    def submit(self, task: Task) -> None:
        self.flying.append(task)
        self.started[task.key] += 1
        self.most = max(self.most, len(self.flying))

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [self.behave(self.flying.pop())] if self.flying else []

    def recall(self) -> list[str]:
        return []

    def close(self) -> None:
        self.flying.clear()


@dataclass
class Record:
    """What a run reported."""

    summary: Summary
    done: dict[str, dict[int, str]]
    attempts: dict[str, int]
    failed: dict[str, Outcome]


def play(executor: Executor, works: list[Batch] | Iterator[Batch], policy: Policy = BRISK, **options: Any) -> Record:
    done: dict[str, dict[int, str]] = {}
    attempts: dict[str, int] = {}
    failed: dict[str, Outcome] = {}

    def on_done(work: Batch, value: dict[int, str], tries: int) -> None:
        assert work.name not in done
        done[work.name], attempts[work.name] = value, tries

    summary = run(executor, works, on_done=on_done, on_failed=lambda work, end: failed.update({work.name: end}), policy=policy, **options)
    return Record(summary, done, attempts, failed)


def ends(state: State, key: str = "", value: Any = None) -> Outcome:
    return Outcome(key, state, value)


def behave_by_fate(task: Task) -> Outcome:
    """How a perfectly contained worker would end."""
    verdicts = {}
    for item in task.payload["items"]:
        if item in task.payload["excluded"]:
            verdicts[item] = task.payload["excluded"][item]
        elif item in task.payload["fates"]:
            ending: State = {"kills": "died", "hangs": "timeout", "exhausts": "oom"}[task.payload["fates"][item]]  # type: ignore[assignment]
            return ends(ending, task.key)
        else:
            verdicts[item] = "ok"
    return ends("done", task.key, verdicts)


@given(
    n_items=st.integers(1, 200),
    culprits=st.dictionaries(st.integers(0, 199), st.sampled_from(sorted(REASONS)), max_size=6),
    fan_out=st.sampled_from([2, 3, 8, 64]),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_culprits_are_named_whoever_and_however_many_they_are(n_items: int, culprits: dict[int, str], fan_out: int) -> None:
    work = Batch("w", n_items, {item: fate for item, fate in culprits.items() if item < n_items})
    executor = Scripted(behave_by_fate)
    record = play(executor, [work], Policy(fan_out=fan_out))
    assert record.done == {"w": work.truth()}
    assert record.failed == {}
    assert executor.most <= executor.slots


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(2, 70))
def test_split_covers_a_range_in_order_in_even_parts(start: int, length: int, parts: int) -> None:
    pieces = split(range(start, start + length), parts)
    assert [item for piece in pieces for item in piece] == list(range(start, start + length))
    assert len(pieces) == min(parts, length)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_works_are_taken_only_as_there_is_room() -> None:
    taken: list[int] = []

    def works() -> Iterator[Batch]:
        for number in range(20):
            taken.append(number)
            yield Batch(f"w{number}", 1)

    ahead: list[int] = []
    executor = Scripted(lambda task: (ahead.append(len(taken)), behave_by_fate(task))[1])
    record = play(executor, works(), max_in_flight=2)
    assert executor.most == 2
    assert ahead[:3] == [2, 3, 4]
    assert record.summary == Summary(done=20)


def test_ten_thousand_units_are_never_in_flight_and_none_is_kept() -> None:
    """What the driver holds at any moment does not grow with what is done."""
    alive: set[int] = set()

    class Counted(Batch):
        def __init__(self, number: int) -> None:
            super().__init__(f"w{number}", 1)
            alive.add(number)
            weakref.finalize(self, alive.discard, number)

    most, done = 0, 0

    def on_done(work: Counted, value: dict[int, str], tries: int) -> None:
        nonlocal most, done
        most, done = max(most, len(alive)), done + 1

    executor = Scripted(behave_by_fate)
    run(executor, (Counted(number) for number in range(10_000)), on_done=on_done, on_failed=lambda work, end: None)
    assert done == 10_000 and executor.most == executor.slots
    assert most <= executor.slots + 2, "those in flight, the one that ended, the one that is being taken"


def test_ray_holds_what_is_in_flight_and_nothing_of_what_has_ended(ray_cluster: None) -> None:
    """Units as large as large ones are: 0.3 MB to send. If they were kept, the 200 MB of the object store would be full."""
    executor = RayExecutor()
    held: list[int] = []

    class Large(Batch):
        def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
            return Task(self.name, "executor_jobs:size", bytes(300_000))

    def on_done(work: Batch, value: int, tries: int) -> None:
        assert value == 300_000
        held.append(len(executor._flights))

    run(executor, (Large(f"w{number}", 1) for number in range(1000)), on_done=on_done, on_failed=lambda work, end: pytest.fail(end.message))
    ends_at = time.monotonic() + 30  # what has ended is freed a moment later
    while (stored := stored_mib()) > 20 and time.monotonic() < ends_at:
        time.sleep(0.2)
    executor.close()
    assert len(held) == 1000 and max(held) <= 4, "twice the cluster's two CPUs"
    assert stored <= 20


def stored_mib() -> int:
    import ray
    from ray._private.internal_api import memory_summary

    ours = ray.get_runtime_context().gcs_address  # the machine may have other clusters
    return int(re.findall(r"Plasma memory usage (\d+) MiB", memory_summary(ours, stats_only=True))[0])


def test_a_lost_task_runs_again_and_blames_nobody() -> None:
    left = Counter({"w1": 3})

    def behave(task: Task) -> Outcome:
        if left[task.key] > 0:
            left[task.key] -= 1
            return ends("lost", task.key)
        return behave_by_fate(task)

    works = [Batch(f"w{number}", 4) for number in range(3)]
    record = play(Scripted(behave), works)
    assert record.done == {work.name: work.truth() for work in works}
    assert record.attempts == {"w0": 1, "w1": 4, "w2": 1}


def test_storage_that_never_comes_back_fails_the_work_and_not_the_run() -> None:
    executor = Scripted(lambda task: ends("lost", task.key) if task.key == "w1" else behave_by_fate(task))
    record = play(executor, [Batch(f"w{number}", 4) for number in range(3)])
    assert executor.started["w1"] == BRISK.attempts_lost
    assert record.failed["w1"].state == "lost"
    assert set(record.done) == {"w0", "w2"}
    assert record.summary == Summary(done=2, failed=1)


def test_losses_during_the_search_for_a_culprit_do_not_mislead_it() -> None:
    """A node that runs many trials of one work goes away, again and again: every task is lost twice before it ends."""
    work = Batch("w", 100, {17: "kills", 63: "kills"})
    executor = Scripted(lambda task: ends("lost", task.key) if executor.started[task.key] <= 2 else behave_by_fate(task))
    assert play(executor, [work]).done == {"w": work.truth()}


def test_losses_are_followed_by_longer_and_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = [0.0], []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += timeout or 0.0
            return False

    started: list[float] = []

    def behave(task: Task) -> Outcome:
        started.append(now[0])
        return ends("lost", task.key)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    play(Scripted(behave), [Batch("w", 1)], Policy(backoff_s=1.0, backoff_max_s=8.0, attempts_lost=7), stop=Clock())
    pauses = [round(after - before, 1) for before, after in pairwise(started)]
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_an_exception_is_tried_once_more_then_fails_the_work_and_not_the_run() -> None:
    executor = Scripted(lambda task: ends("raised", task.key) if task.key == "w0" else behave_by_fate(task))
    record = play(executor, [Batch("w0", 9), Batch("w1", 9)])
    assert executor.started["w0"] == 2
    assert record.failed["w0"].state == "raised"
    assert set(record.done) == {"w1"}


@pytest.mark.parametrize(("state", "attempts"), [("died", 3), ("oom", 3), ("timeout", 2)])
def test_a_whole_that_ends_badly_without_a_culprit_gets_one_last_attempt(state: State, attempts: int) -> None:
    deadlines: list[float | None] = []

    def behave(task: Task) -> Outcome:
        if task.key != "w":
            return behave_by_fate(task)
        deadlines.append(task.timeout_s)
        return ends(state, task.key)

    executor = Scripted(behave)
    record = play(executor, [Batch("w", 30, seconds_per_item=10.0)])
    assert executor.started["w"] == attempts
    assert record.failed["w"].state == state
    assert record.done == {}
    assert deadlines == [300.0] * (attempts - 1) + [600.0]  # the last one has twice as long: it may only have been slow


def test_a_whole_that_recovers_on_the_last_attempt_is_done() -> None:
    executor = Scripted(lambda task: ends("died", task.key) if task.key == "w" and executor.started["w"] < 3 else behave_by_fate(task))
    work = Batch("w", 30)
    assert play(executor, [work]).done == {"w": work.truth()}


def test_a_work_that_ignores_what_is_excluded_fails_instead_of_going_on_for_ever() -> None:
    executor = Scripted(lambda task: ends("died", task.key))
    record = play(executor, [Batch("one", 1), Batch("many", 20)])
    assert set(record.failed) == {"one", "many"}
    assert executor.started.total() < 40


def test_a_culprit_that_shows_only_after_others_are_excluded_is_named_in_the_next_search() -> None:
    """Item 9 kills only where item 3 did not do so before."""

    def behave(task: Task) -> Outcome:
        items, excluded = task.payload["items"], task.payload["excluded"]
        shy = 9 in items and 9 not in excluded and 3 in excluded
        return ends("died", task.key) if shy else behave_by_fate(task)

    record = play(Scripted(behave), [Batch("w", 12, {3: "kills"})])
    assert record.done["w"] == {item: "E_CRASH" if item in (3, 9) else "ok" for item in range(12)}


def test_stop_starts_nothing_more_and_lets_what_runs_end() -> None:
    stop = threading.Event()

    def behave(task: Task) -> Outcome:
        if task.key == "w4":
            stop.set()
        return behave_by_fate(task)

    executor = Scripted(behave)
    record = play(executor, [Batch(f"w{number}", 1) for number in range(100)], stop=stop)
    assert record.summary.stopped
    assert record.summary.done == len(record.done) == executor.started.total() < 10
    assert record.summary.abandoned == 0


def test_stop_takes_back_what_no_worker_has_begun() -> None:
    stop = threading.Event()

    class Queueing(Scripted):
        def wait(self, timeout_s: float) -> list[Outcome]:
            stop.set()
            return super().wait(timeout_s)

        def recall(self) -> list[str]:
            return [self.flying.pop(0).key]

    record = play(Queueing(behave_by_fate), [Batch(f"w{number}", 1) for number in range(9)], stop=stop)
    assert record.summary == Summary(done=2, abandoned=1, stopped=True)
    assert set(record.done) == {"w1", "w2"}


def test_stop_abandons_what_does_not_end_within_the_grace_and_what_waits_for_another_attempt() -> None:
    stop = threading.Event()

    class Stuck(Scripted):
        def wait(self, timeout_s: float) -> list[Outcome]:
            for i, task in enumerate(self.flying):
                if task.key == "lost":
                    del self.flying[i]
                    return [ends("lost", task.key)]
            stop.set()
            time.sleep(min(timeout_s, 0.01))
            return []

    record = play(Stuck(behave_by_fate), [Batch("lost", 1), Batch("slow", 1)], Policy(backoff_s=60.0, grace_s=0.05), stop=stop)
    assert record.summary == Summary(abandoned=2, stopped=True)
    assert record.failed == {}


def test_two_works_with_one_key_are_refused() -> None:
    with pytest.raises(ValueError, match="'w'"):
        play(Scripted(behave_by_fate), [Batch("w", 1), Batch("w", 1)])


@pytest.fixture
def contained(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    made = make_executor(request.param, 2)
    yield made
    made.close()


@pytest.mark.parametrize("contained", ["process", "ray"], indirect=True)
def test_one_killer_among_a_thousand_costs_one_sample(contained: Executor) -> None:
    works = [Batch(f"u{number:02d}", 50) for number in range(20)]
    works[10].fates[37] = "kills"
    record = play(contained, works)
    verdicts = Counter(verdict for value in record.done.values() for verdict in value.values())
    assert verdicts == {"ok": 999, "E_CRASH": 1}
    assert record.done == {work.name: work.truth() for work in works}


@pytest.mark.parametrize("contained", ["process", "ray"], indirect=True)
def test_killers_hangers_and_gluttons_of_one_unit_are_each_named(contained: Executor) -> None:
    work = Batch("u", 20, {0: "kills", 11: "hangs", 12: "exhausts", 19: "kills"}, seconds_per_item=0.2)
    assert play(contained, [work]).done == {"u": work.truth()}
