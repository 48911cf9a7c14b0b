"""A bounded `ray.wait` loop over Ray Core tasks. Ray retries nothing: what a death means is the scheduler's business.

Every task is a streaming generator that first yields a start mark, the id of its node, and then its outcome, so that a
deadline counts from the moment the task runs. Time spent waiting for a node that the autoscaler has yet to bring is not
the task's.

A Ray worker takes seconds to start, ten on a busy machine. So a suspect task runs in a child of its Ray worker, in the
way of `process.py`, where a death costs a tenth of that, and no more than the task.
"""

import importlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.executors import Outcome, State, Task
from pipeline.executors.call import blind, module_path, perform
from pipeline.executors.process import ProcessExecutor

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

_POLL_S = 1.0  # how often running tasks are compared with their deadlines, and waiting ones with the nodes there are
_LOCAL_OBJECT_STORE_BYTES = 200 * 2**20  # only outcomes travel: paths and counts, never frames
_CHILD_START_S = 60.0
_MIN_SLOTS = 2  # a cluster without workers yet must see demand, or its autoscaler brings none
# What waits is what an autoscaler goes by: with one task more than runs it would bring one node after the other, with twice as
# many it doubles the cluster each time.
_DEMAND = 2
_SIZE_S = 1.0  # how long the cluster's size is taken as known: asking costs as much as a small task


def _import_ray() -> ModuleType:
    if importlib.util.find_spec("ray") is None:
        raise ImportError("the ray executor needs ray; fix: uv pip install 'ray[default]', or use --executor process")
    return importlib.import_module("ray")


@contextmanager
def _environment(**defaults: str) -> Iterator[None]:
    """Set the variables that are not set, and take them back afterwards."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def connect(workers: int | None) -> bool:
    """Be connected to a cluster: the one we have, the one that RAY_ADDRESS names, or a local one that we start.

    Returns whether we connected, and so are the one to disconnect. In a job, `working_dir` brings our modules to the
    workers; otherwise they look where this process looks, which the nodes of one file system can.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return False
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if not in_job:
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": module_path()}}
    if in_job or os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", **options)
        return True
    # Without an explicit mode, Ray writes a token into the home folder, and every later `ray job submit` to a head on
    # this machine then asks for it. This cluster listens on loopback and lives as long as this process.
    with _environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"):
        ray.init(
            address="local",
            num_cpus=workers or len(os.sched_getaffinity(0)),
            include_dashboard=False,
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            **options,
        )
    return True


_for_suspects: list[ProcessExecutor] = []  # in a Ray worker: the child that suspect tasks run in, while they come


@dataclass(frozen=True)
class _Blind:
    """How a task ended on a node that does not see what the driver does."""

    outcome: Outcome


def _run_task(task: Task) -> Iterator[Outcome | _Blind | str]:
    """What a Ray worker runs: its node's id when it starts, then the outcome."""
    yield _import_ray().get_runtime_context().get_node_id()
    if (unseeing := blind(task)) is not None:
        yield _Blind(unseeing)
    elif task.suspect:
        yield _run_in_child(task)
    else:
        while _for_suspects:
            _for_suspects.pop().close()  # its memory is better used otherwise
        yield perform(task)


def _run_in_child(task: Task) -> Outcome:
    if not _for_suspects:
        _for_suspects.append(ProcessExecutor(1))
    _for_suspects[0].submit(task)
    while not (ended := _for_suspects[0].wait(60.0)):
        pass
    return ended[0]


@dataclass(eq=False)
class _Flight:
    task: Task
    stream: "ObjectRefGenerator"
    elsewhere: bool = False  # only nodes that are not avoided may run it
    node: str = ""  # where it runs; "" until it does
    deadline: float | None = None  # of time.monotonic(); None until it runs
    cancelled: Outcome | None = None  # how it has ended once Ray has ended it for us


class RayExecutor:
    """Ray Core tasks of `num_cpus` each, named by their functions in Ray's dashboard.

    With `workers` given, that many are in flight; otherwise twice as many as the cluster can run at once. Nothing is kept of a
    task that has ended, here or in the object store. A node that does not see the run's files gets no further task while there
    are others: it is idle most of the time, so Ray would choose it again and again.
    """

    def __init__(self, workers: int | None = None, num_cpus: float = 1.0) -> None:
        self._disconnect = connect(workers)
        self._ray = _import_ray()
        self._workers = workers
        self._num_cpus = num_cpus
        self._function = self._ray.remote(max_retries=0, num_cpus=num_cpus, num_returns="streaming")(_run_task)
        self._flights: dict[Any, _Flight] = {}
        self._size = (0.0, 0)  # when the cluster was asked for its size, and what could run at once
        self._avoided: dict[str, str] = {}  # what was said of each node, by its id
        self._looked = 0.0  # when what waits was last compared with the nodes there are
        self._closed = False

    @property
    def slots(self) -> int:
        if self._workers is not None:
            return self._workers
        now = time.monotonic()
        if now >= self._size[0] + _SIZE_S:
            self._size = now, int(self._ray.cluster_resources().get("CPU", 0) / self._num_cpus)
        return max(_MIN_SLOTS, _DEMAND * self._size[1])

    def submit(self, task: Task) -> None:
        if self._closed:
            raise RuntimeError(f"task {task.key!r} came after close(); make a new executor")
        # By what it does, not by its key: Ray counts tasks by their names for ever, 11 kB each in the driver alone.
        name = task.function.rpartition(":")[2]
        elsewhere = self._elsewhere()
        stream = self._function.options(name=name, **elsewhere).remote(task)
        self._flights[stream] = _Flight(task, stream, elsewhere=bool(elsewhere))

    def _elsewhere(self) -> dict[str, Any]:
        """Options that keep a task from the nodes to avoid; none where there is no other node that could run it.

        Ray's `fallback_strategy` is no way to say so: it takes the avoided nodes whenever the others are busy.
        """
        avoided, others = self._nodes() if self._avoided else ([], set())
        return {"label_selector": {"ray.io/node-id": f"!in({','.join(avoided)})"}} if avoided and others else {}

    def _nodes(self) -> tuple[list[str], set[str]]:
        """The nodes alive that could run a task: those to avoid, and the others."""
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= self._num_cpus}
        return sorted(alive & self._avoided.keys()), alive - self._avoided.keys()

    def wait(self, timeout_s: float) -> list[Outcome]:
        ends_at = time.monotonic() + timeout_s
        while self._flights:
            left = max(0.0, min(_POLL_S, ends_at - time.monotonic()))
            # All that are ready, not one at a time: start marks come in crowds.
            ready, _ = self._ray.wait(list(self._flights), num_returns=1, timeout=left, fetch_local=False)
            more, _ = self._ray.wait(list(self._flights), num_returns=len(self._flights), timeout=0, fetch_local=False)
            ended = [out for stream in dict.fromkeys([*ready, *more]) if (out := self._hear(self._flights[stream]))]
            self._enforce_deadlines()
            self._end_vain_waits()
            if ended or time.monotonic() >= ends_at:
                return ended
        return []

    def recall(self) -> list[str]:
        unheard = [flight.stream for flight in self._flights.values() if not flight.node]
        if not unheard:
            return []
        _, unbegun = self._ray.wait(unheard, num_returns=len(unheard), timeout=0, fetch_local=False)
        for stream in unbegun:
            self._ray.cancel(stream, force=True)
        return [self._flights.pop(stream).task.key for stream in unbegun]

    def close(self) -> None:
        """Abandon what is in flight. Ends the cluster's tasks, and the cluster itself if this executor started it."""
        if self._closed:
            return
        self._closed = True
        for stream in self._flights:
            self._ray.cancel(stream, force=True)
        self._flights.clear()
        if self._disconnect:
            self._ray.shutdown()

    def _hear(self, flight: _Flight) -> Outcome | None:
        """The next word of a task that has spoken: its outcome, or None for the start mark."""
        try:
            word: Outcome | _Blind | str = self._ray.get(next(flight.stream))
        except Exception as error:  # Ray says by exceptions how a task ended; none of them may pass for a result
            word = self._judge(flight, error)
        if isinstance(word, str):
            flight.node, seconds = word, flight.task.timeout_s
            if seconds is not None:  # a suspect's own deadline is kept by its Ray worker
                flight.deadline = time.monotonic() + seconds + (_CHILD_START_S if flight.task.suspect else 0.0)
            return None
        del self._flights[flight.stream]
        if isinstance(word, _Blind):
            self._avoided[flight.node] = word.outcome.message
            return word.outcome
        return word

    def _judge(self, flight: _Flight, error: Exception) -> Outcome:
        task, known = flight.task, self._ray.exceptions
        if flight.cancelled and isinstance(error, known.TaskCancelledError | known.WorkerCrashedError):
            return flight.cancelled
        if isinstance(error, known.OutOfMemoryError):
            return Outcome(task.key, "oom", message=str(error))
        if isinstance(error, known.WorkerCrashedError) and self._is_going(flight.node):
            return Outcome(task.key, "lost", message=f"the worker process was ended with its node {flight.node}")
        if isinstance(error, known.WorkerCrashedError):
            return Outcome(task.key, "died", message="the worker process died")
        if isinstance(error, known.RayTaskError):  # payload or result that does not pickle, module not found
            return Outcome(task.key, "raised", message=str(error))
        if isinstance(error, known.RayError):  # node died, preempted, object lost, set-up of the node failed
            return Outcome(task.key, "lost", message=" ".join(f"{type(error).__name__}: {error}".split()))
        raise error

    def _is_going(self, node: str) -> bool:
        """Whether the node is being drained, as before a preemption: what stops there is stopped by that."""
        return node in self._ray._private.state.state.get_draining_nodes()  # as ray.train asks; there is no public way

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for flight in self._flights.values():
            if flight.deadline is not None and flight.deadline <= now and not flight.cancelled:
                self._cancel(flight, "timeout", f"ran past its deadline of {flight.task.timeout_s:g} s")

    def _end_vain_waits(self) -> None:
        """Where only nodes to avoid are left, end what was submitted when there were others: Ray would keep it for ever."""
        waiting = [flight for flight in self._flights.values() if flight.elsewhere and not flight.node and not flight.cancelled]
        now = time.monotonic()
        if not waiting or now < self._looked + _POLL_S:
            return
        self._looked = now
        avoided, others = self._nodes()
        if avoided and not others:
            for flight in waiting:
                self._cancel(flight, "lost", self._avoided[avoided[0]])

    def _cancel(self, flight: _Flight, state: State, message: str) -> None:
        flight.cancelled = Outcome(flight.task.key, state, message=message)  # its end arrives as an exception
        self._ray.cancel(flight.stream, force=True)
