"""One contract for all executors. `inline` runs in the driver's process: a task that kills or hangs its process does so
to the driver, which the contract says, so those tests run on `process` and `ray`."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_jobs import ExplodesOnArrival

from pipeline.executors import Executor, Outcome, Task, call
from pipeline.executors.factory import make_executor
from pipeline.executors.process import ProcessExecutor

ALL = ("inline", "process", "ray")
CONTAINED = ("process", "ray")
WORKERS = 2


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    made = make_executor(request.param, WORKERS)
    yield made
    made.close()


def on(*names: str) -> Any:
    return pytest.mark.parametrize("executor", names, indirect=True)


def task(key: str, function: str, payload: Any, timeout_s: float | None = None, suspect: bool = False) -> Task:
    return Task(key, f"executor_jobs:{function}", payload, timeout_s, suspect)


def outcomes(executor: Executor, *tasks: Task) -> dict[str, Outcome]:
    """Submit, and wait until every task has ended."""
    for each in tasks:
        executor.submit(each)
    ended: dict[str, Outcome] = {}
    wait_until(lambda: bool(ended.update({each.key: each for each in executor.wait(1.0)})) or len(ended) == len(tasks))
    return ended


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a zombie has ended; somebody has yet to take note


def told_pids(path: Path) -> list[int]:
    wait_until(path.exists)
    return [int(pid) for pid in path.read_text().split()]


@on(*ALL)
def test_every_task_ends_once_with_its_own_result(executor: Executor) -> None:
    ended: list[Outcome] = []
    for number in range(40):
        executor.submit(task(f"t{number}", "double", number))
    wait_until(lambda: ended.extend(executor.wait(1.0)) or len(ended) >= 40)
    assert sorted(each.key for each in ended) == sorted(f"t{number}" for number in range(40))
    assert {each.key: (each.state, each.value) for each in ended} == {f"t{number}": ("done", 2 * number) for number in range(40)}


@on(*ALL)
def test_an_exception_is_an_outcome_with_its_traceback(executor: Executor) -> None:
    ended = outcomes(executor, task("bad", "raise_it", KeyError("no such view")), task("good", "double", 1))
    assert ended["bad"].state == "raised"
    assert "no such view" in ended["bad"].message
    assert "executor_jobs.py" in ended["bad"].message
    assert ended["good"].value == 2


@on(*ALL)
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (OSError(errno.EIO, "disk"), "lost"),
        (OSError(errno.ENOSPC, "full"), "lost"),
        (ConnectionResetError("object store"), "lost"),
        (OSError(errno.ENOENT, "gone"), "raised"),
        (ValueError("a bug"), "raised"),
        (MemoryError(), "oom"),
    ],
    ids=["EIO", "ENOSPC", "connection", "ENOENT", "bug", "memory"],
)
def test_storage_and_memory_are_told_from_bugs(executor: Executor, error: Exception, state: str) -> None:
    assert outcomes(executor, task("t", "raise_it", error))["t"].state == state


def test_where_the_runs_files_are_not_seen_nothing_runs_and_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group one path is enough; of every group one must be there. On a real other machine: test_cluster.py."""
    monkeypatch.setattr(call, "_MOUNT_S", 0.2)
    mark, gone, log = tmp_path / "mark", tmp_path / "gone", tmp_path / "log"
    mark.touch()
    job = {"path": str(log), "seconds": 0.0}
    seeing = Task("seeing", "executor_jobs:log_interval", job, sees=((str(mark),), (str(gone), str(mark))))
    assert call.perform(seeing).state == "done"
    before = log.read_text()
    blind = call.perform(Task("blind", "executor_jobs:log_interval", job, sees=((str(mark),), (str(gone),))))
    assert blind.state == "lost" and f"{os.uname().nodename} does not see {gone}" in blind.message
    assert log.read_text() == before


@on(*ALL)
def test_a_function_that_does_not_exist_is_an_exception(executor: Executor) -> None:
    ended = outcomes(executor, Task("m", "no_such_module:f", 0), Task("f", "executor_jobs:no_such", 0), Task("n", "nonsense", 0))
    assert {each.state for each in ended.values()} == {"raised"}
    assert "no_such_module" in ended["m"].message


@on(*CONTAINED)
def test_what_does_not_pickle_is_an_exception_and_no_death(executor: Executor) -> None:
    ended = outcomes(
        executor, task("result", "unpicklable", None), task("payload", "double", ExplodesOnArrival()), task("good", "double", 1)
    )
    assert {key: each.state for key, each in ended.items()} == {"result": "raised", "payload": "raised", "good": "done"}


@on(*CONTAINED)
@pytest.mark.parametrize("suspect", [False, True], ids=["", "suspect"])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit"])
def test_a_death_costs_the_task_that_died_and_no_other(executor: Executor, how: str, suspect: bool) -> None:
    others = [task(f"t{number}", "double", number) for number in range(10)]
    ended = outcomes(executor, *others[:5], task("killer", "die", how, suspect=suspect), *others[5:])
    assert ended["killer"].state == "died"
    assert {key: each.value for key, each in ended.items() if key != "killer"} == {f"t{number}": 2 * number for number in range(10)}


@on(*CONTAINED)
@pytest.mark.parametrize("suspect", [False, True], ids=["", "suspect"])
def test_a_task_past_its_deadline_is_killed(executor: Executor, tmp_path: Path, suspect: bool) -> None:
    told = tmp_path / "pids"
    hanging = task("hangs", "sleep_and_tell", {"path": str(told), "seconds": 600.0}, timeout_s=2.0, suspect=suspect)
    ended = outcomes(executor, hanging, task("good", "double", 1, timeout_s=60.0))
    assert ended["hangs"].state == "timeout"
    assert "2 s" in ended["hangs"].message
    assert ended["good"].value == 2
    worker, _ = told_pids(told)
    wait_until(lambda: not is_running(worker))


@on(*CONTAINED)
def test_waiting_for_a_worker_does_not_count_towards_the_deadline(executor: Executor) -> None:
    """Eight tasks of 0.7 s on two workers: the last ends 2.8 s after it was submitted."""
    ended = outcomes(executor, *(task(f"t{number}", "sleep", 0.7, timeout_s=2.0) for number in range(8)))
    assert {each.state for each in ended.values()} == {"done"}


@on(*CONTAINED)
def test_no_more_tasks_run_at_once_than_there_are_workers(executor: Executor, tmp_path: Path) -> None:
    path = tmp_path / "log"
    outcomes(executor, *(task(f"t{number}", "log_interval", {"path": str(path), "seconds": 0.1}) for number in range(8)))
    edges = sorted(tuple(map(int, line.split())) for line in path.read_text().splitlines())
    running = [sum(edge for _, edge in edges[: i + 1]) for i in range(len(edges))]
    assert len(edges) == 16
    assert max(running) == WORKERS


@on(*ALL)
def test_wait_returns_when_nothing_is_in_flight(executor: Executor) -> None:
    assert executor.wait(60.0) == []


@on(*CONTAINED)
def test_wait_returns_empty_when_its_time_runs_out(executor: Executor) -> None:
    executor.submit(task("t", "sleep", 600.0))
    assert executor.wait(0.3) == []


@on(*ALL)
def test_what_no_worker_has_begun_can_be_taken_back(executor: Executor, tmp_path: Path) -> None:
    keys = {f"t{number}" for number in range(8)}
    for key in sorted(keys):
        executor.submit(task(key, "log_interval", {"path": str(tmp_path / key), "seconds": 1.5}))
    ended: list[Outcome] = []
    wait_until(lambda: bool(ended.extend(executor.wait(0.1)) or list(tmp_path.iterdir())))
    recalled = executor.recall()
    wait_until(lambda: bool(ended.extend(executor.wait(0.1)) or len(ended) + len(recalled) >= 8))
    assert sorted([*recalled, *(each.key for each in ended)]) == sorted(keys)
    assert outcomes(executor, task("later", "double", 1))["later"].value == 2
    assert 1 <= len(list(tmp_path.iterdir())) <= WORKERS


@on(*CONTAINED)
def test_close_ends_the_tasks_in_flight(executor: Executor, tmp_path: Path) -> None:
    told = [tmp_path / "a", tmp_path / "b"]
    for path in told:
        executor.submit(task(path.name, "sleep_and_tell", {"path": str(path), "seconds": 600.0}, suspect=path.name == "b"))
    wait_until(lambda: executor.wait(0.1) == [] and all(path.exists() for path in told))
    workers = [told_pids(path)[0] for path in told]
    executor.close()
    executor.close()
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    with pytest.raises(RuntimeError, match="close"):
        executor.submit(task("late", "double", 1))


def test_suspects_on_ray_do_not_cost_their_ray_worker(ray_cluster: None, tmp_path: Path) -> None:
    """A Ray worker takes seconds to start. The two that were there before the killers came are there after them."""
    executor = make_executor("ray", WORKERS)
    before = ray_workers(executor, tmp_path / "before")
    ended = outcomes(executor, *(task(f"k{number}", "die", "SIGKILL", suspect=True) for number in range(6)))
    after = ray_workers(executor, tmp_path / "after")
    executor.close()
    assert {each.state for each in ended.values()} == {"died"}
    assert after == before


def test_what_waits_for_another_node_is_lost_when_only_the_one_that_does_not_see_is_left(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node was there for a moment, says Ray; nothing can run on it."""
    import ray

    executor = make_executor("ray", WORKERS)
    gone = str(tmp_path / "gone")
    said = outcomes(executor, Task("blind", "executor_jobs:double", 1, sees=((gone,),)))["blind"].message
    nodes = [*ray.nodes(), {"NodeID": "f" * 56, "Alive": True, "Resources": {"CPU": 1.0}}]
    with monkeypatch.context() as patch:
        patch.setattr(ray, "nodes", lambda: nodes)
        executor.submit(task("waits", "double", 2))
        assert executor.wait(2.0) == []
    executor.submit(task("there", "double", 3))
    ended: dict[str, Outcome] = {}
    wait_until(lambda: bool(ended.update({each.key: each for each in executor.wait(1.0)})) or len(ended) == 2)
    executor.close()
    assert (ended["waits"].state, ended["waits"].message) == ("lost", said) and gone in said
    assert ended["there"].value == 6, "better there than nowhere"


def ray_workers(executor: Executor, folder: Path) -> set[int]:
    """The processes of as many tasks as there are workers, all running at once."""
    folder.mkdir()
    ended = outcomes(executor, *(task(f"w{number}", "meet", {"path": str(folder), "number": WORKERS}) for number in range(WORKERS)))
    return {each.value for each in ended.values()}


def test_close_of_process_leaves_no_process_behind(tmp_path: Path) -> None:
    """Idle workers, busy workers, and what their tasks started."""
    executor = ProcessExecutor(2)
    outcomes(executor, task("a", "double", 1), task("b", "double", 2))
    path = tmp_path / "pids"
    executor.submit(task("t", "sleep_and_tell", {"path": str(path), "seconds": 600.0}))
    wait_until(lambda: executor.wait(0.1) == [] and path.exists())
    children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    pids = [*told_pids(path), *(pid for pid in children if "pipeline.executors.worker" in Path(f"/proc/{pid}/cmdline").read_text())]
    assert len(pids) >= 3
    executor.close()
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_process_workers_die_with_the_driver_even_in_the_middle_of_a_task(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = (
        "from pipeline.executors import Task\nfrom pipeline.executors.process import ProcessExecutor\n"
        f"e = ProcessExecutor(1)\ne.submit(Task('t', 'executor_jobs:sleep_and_tell', dict(path={str(told)!r}, seconds=600.0)))\n"
        "while True: e.wait(1.0)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as driver:
        worker, child = told_pids(told)
        driver.kill()
    try:
        wait_until(lambda: not is_running(worker))
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_workers_leave_requests_to_stop_to_the_driver(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "pids"
    executor = ProcessExecutor(1)
    executor.submit(task("t", "sleep_and_tell", {"path": str(told), "seconds": 1.0}))
    wait_until(lambda: executor.wait(0.05) == [] and told.exists())
    os.kill(told_pids(told)[0], number)
    ended: list[Outcome] = []
    wait_until(lambda: bool(ended.extend(executor.wait(1.0)) or ended))
    executor.close()
    assert ended[0].value == "slept"


def test_a_worker_is_used_again_and_replaced_only_when_it_dies() -> None:
    executor = ProcessExecutor(1)
    pids = [outcomes(executor, Task(f"t{i}", "os:getpgid", 0))[f"t{i}"].value for i in range(3)]
    outcomes(executor, task("killer", "die", "SIGKILL"))
    after = outcomes(executor, Task("after", "os:getpgid", 0))["after"].value
    executor.close()
    assert len(set(pids)) == 1
    assert after != pids[0]


def test_workers_that_cannot_start_are_reported_not_retried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    executor = ProcessExecutor(1)
    executor.submit(task("t", "double", 1))
    with pytest.raises(RuntimeError, match="do not start"):
        while True:
            executor.wait(1.0)
    executor.close()


@pytest.mark.parametrize(("name", "workers", "message"), [("slurm", None, "inline, process, ray"), ("process", 0, "1 or more")])
def test_what_cannot_be_is_refused_with_what_can(name: str, workers: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_executor(name, workers)
