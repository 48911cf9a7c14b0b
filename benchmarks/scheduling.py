"""python -m benchmarks.scheduling: what the driver loop costs, alone and on Ray, beside Ray Data, and what one killer costs.

The loop alone drives 100,000 no-op units on an executor that ends each task at once: events/s and memory. The rest is on one local
cluster, started before the clock. Each figure is the median of its repetitions, ours and the baseline in turns, so that a busy
machine disturbs both alike.
"""

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured import memory_mib
from pipeline.binding import bind
from pipeline.executors import Outcome, Task
from pipeline.executors.ray import RayExecutor
from pipeline.progress import Progress
from pipeline.run import Settings, execute, prepare
from pipeline.scheduler import run
from schemas.recipe import parse_recipe
from schemas.verdict import Reason
from stages.storage import Tree

UNIT = 50
LIMIT_MS = 1.0
LIMIT_EVENTS = 10_000  # a second: a unit takes seconds at the least, so this is for clusters of tens of thousands of CPUs
LIMIT_MIB = 10.0  # from the first to the last of 100,000 units
LIMIT_EXTRA_S = 10.0


@dataclass(frozen=True)
class NoOpUnit:
    """A unit whose stage does nothing; at most one of its samples kills the process that examines it."""

    number: int
    killer: int | None = None

    @property
    def n_items(self) -> int:
        return UNIT

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        key = f"noop/{self.number:06d}" + (f"[{items.start}:{items.stop}]" if items is not None else "")
        payload = {"items": items or range(UNIT), "excluded": dict(excluded), "killer": self.killer}
        return Task(key, "benchmarks.scheduling:examine", payload, timeout_s=600.0)


def examine(payload: Mapping[str, Any]) -> list[str]:
    """The unit function: one verdict for every sample."""
    verdicts = []
    for item in payload["items"]:
        if item in payload["excluded"]:
            verdicts.append(str(payload["excluded"][item][0]))
        elif item == payload["killer"]:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            verdicts.append("kept")
    return verdicts


class AtOnce:
    """An executor in which a task ends as soon as one waits, `slots` at a time: what is left is the loop."""

    slots = 1000

    def __init__(self) -> None:
        self.flying: list[Task] = []

    def submit(self, task: Task) -> None:
        self.flying.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        ended, self.flying = self.flying, []
        return [Outcome(task.key, "done", {}) for task in ended]

    def recall(self) -> list[str]:
        return []

    def close(self) -> None:
        self.flying.clear()


def loop_alone(units: int, repetitions: int) -> str:
    """A unit is two events: it is started, and it ends."""
    rates, growth = [], []
    for _ in range(repetitions):
        done, first = 0, 0.0

        def on_done(unit: NoOpUnit, value: Any, attempts: int) -> None:
            nonlocal done, first
            done += 1
            if done == 1000:
                first = memory_mib()[0]

        started = time.perf_counter()
        run(AtOnce(), map(NoOpUnit, range(units)), on_done=on_done, on_failed=lambda unit, outcome: None)
        rates.append(2 * units / (time.perf_counter() - started))
        growth.append(memory_mib()[0] - first)
    rate = statistics.median(rates)
    return (
        f"| loop alone, {units} no-op units, events/s | {rate:.0f} | | at least {LIMIT_EVENTS} | {rate / LIMIT_EVENTS:.2f} |\n"
        f"| loop alone, MiB more after {units} units than after 1000 | {max(growth):.1f} | | at most {LIMIT_MIB:g} | |"
    )


def on_ray(units: int) -> str:
    """The same on Ray, once: what the driver's process has more at the end."""
    done, first, started = 0, 0.0, time.perf_counter()

    def on_done(unit: NoOpUnit, value: Any, attempts: int) -> None:
        nonlocal done, first
        done += 1
        if done == units // 10:
            first = memory_mib()[0]

    def failed(unit: NoOpUnit, outcome: Outcome) -> None:
        raise RuntimeError(f"unit {unit.number} ended as {outcome.state}: {outcome.message}")

    executor = RayExecutor()
    run(executor, map(NoOpUnit, range(units)), on_done=on_done, on_failed=failed)
    executor.close()
    rate, growth = 2 * units / (time.perf_counter() - started), memory_mib()[0] - first
    return (
        f"| on Ray, {units} no-op units, events/s | {rate:.0f} | | | |\n"
        f"| on Ray, MiB more after {units} units than after {units // 10} | {growth:.1f} | | at most {LIMIT_MIB:g} | |"
    )


def ours(samples: int, killer: int | None = None) -> Counter[str]:
    """All samples through the driver loop; the sample with the number `killer` kills its worker."""
    units = [NoOpUnit(n, killer % UNIT if killer is not None and killer // UNIT == n else None) for n in range(samples // UNIT)]
    verdicts: Counter[str] = Counter()

    def failed(unit: NoOpUnit, outcome: Outcome) -> None:
        raise RuntimeError(f"unit {unit.number} ended as {outcome.state}: {outcome.message}")

    executor = RayExecutor()
    run(executor, units, on_done=lambda _unit, value, _attempts: verdicts.update(value), on_failed=failed)
    executor.close()
    return verdicts


def ray_data(samples: int) -> int:
    """The same with Ray Data: batches of a unit's size through map_batches, and a verdict for each row."""
    import ray

    dataset = ray.data.range(samples, override_num_blocks=samples // UNIT)
    mapped = dataset.map_batches(lambda batch: {"verdict": ["kept"] * len(batch["id"])}, batch_size=UNIT)
    return sum(len(batch["verdict"]) for batch in mapped.iter_batches(batch_size=UNIT))


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def overhead(samples: int, repetitions: int) -> str:
    ours(10 * UNIT), ray_data(10 * UNIT)  # workers up, modules imported
    pairs = [(seconds(lambda: ours(samples)), seconds(lambda: ray_data(samples))) for _ in range(repetitions)]
    mine, baseline = (1000 * statistics.median(column) / samples for column in zip(*pairs, strict=True))
    return (
        f"| no-op stage, {samples} samples, units of {UNIT}, ms a sample | {mine:.3f} | {baseline:.3f} (Ray Data map_batches) "
        f"| at most {LIMIT_MS:g} | {mine / baseline:.2f} |"
    )


def whole_run(samples: int, repetitions: int) -> str:
    """The real command's work: plan, rows, Parquet parts, shards and tables, every file synced to disk."""
    source = {"ingest": "benchmarks.noop:Nothing", "options": {"count": samples}, "stages": ["benchmarks.noop:NoOp"]}
    recipe = parse_recipe({"name": "noop", "units": {"size": UNIT}, "sources": {"nothing": source}})
    mine, baseline = [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "in"
        root.mkdir()
        (root / "clip.mp4").write_bytes(bytes(300))
        for repetition in range(repetitions + 1):  # the first one warms the workers up
            settings = Settings(recipe, bind(recipe), {"nothing": Tree(root)}, Path(name) / f"out{repetition}")
            progress, executor = Progress(quiet=True), RayExecutor()
            started = time.perf_counter()
            result = execute(settings, prepare(settings, progress), executor, threading.Event(), progress)
            mine.append(time.perf_counter() - started)
            executor.close()
            if result.totals is None or result.totals.counts["nothing"] != {"kept": samples}:
                raise RuntimeError(f"the run did not keep all {samples} samples: {result}")
            baseline.append(seconds(lambda: ray_data(samples)))
    run_ms, data_ms = (1000 * statistics.median(column[1:]) / samples for column in (mine, baseline))
    return (
        f"| no-op stage, whole run with rows, shards and tables, {samples} samples, ms a sample | {run_ms:.3f} "
        f"| {data_ms:.3f} (Ray Data map_batches, which writes nothing) | at most {LIMIT_MS:g} | {run_ms / data_ms:.2f} |"
    )


def one_killer(samples: int, repetitions: int) -> str:
    clean, deadly = [], []
    for _ in range(repetitions):
        clean.append(seconds(lambda: ours(samples)))
        started = time.perf_counter()
        verdicts = ours(samples, killer=samples // 2 + 37)
        deadly.append(time.perf_counter() - started)
        if verdicts != {"kept": samples - 1, "E_CRASH": 1}:
            raise RuntimeError(f"expected {samples - 1} kept and 1 E_CRASH, got {dict(verdicts)}")
    without, with_killer = statistics.median(clean), statistics.median(deadly)
    return (
        f"| one worker-killing sample among {samples}, s | {with_killer:.2f} | {without:.2f} (without it) "
        f"| at most {LIMIT_EXTRA_S:g} more | {with_killer - without:.2f} more |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description="The driver loop's cost on Ray")
    parser.add_argument("--samples", type=int, default=5000, help="for the overhead, a multiple of 50 (default: 5000)")
    parser.add_argument("--units", type=int, default=100_000, help="for the loop alone; a tenth of it on Ray (default: 100000)")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.samples < UNIT or options.samples % UNIT:
        parser.error(f"--samples {options.samples}: a positive multiple of {UNIT}, please")
    import ray

    from pipeline.executors.ray import connect

    connect(workers=None)
    ray.data.DataContext.get_current().enable_progress_bars = False
    print("| what | ours | baseline | limit | ratio |\n|---|---|---|---|---|")
    print(loop_alone(options.units, options.repetitions), flush=True)
    print(on_ray(options.units // 10), flush=True)
    print(overhead(options.samples, options.repetitions), flush=True)
    print(whole_run(options.samples, options.repetitions), flush=True)
    print(one_killer(1000, options.repetitions), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
