"""python -m benchmarks.scheduling: what the driver loop costs on Ray, beside Ray Data, and what one killer costs.

One local cluster for everything, started before the clock. Each figure is the median of its repetitions, ours and the
baseline in turns, so that a busy machine disturbs both alike.
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
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.samples < UNIT or options.samples % UNIT:
        parser.error(f"--samples {options.samples}: a positive multiple of {UNIT}, please")
    import ray

    from pipeline.executors.ray import connect

    connect(workers=None)
    ray.data.DataContext.get_current().enable_progress_bars = False
    print("| what | ours | baseline | limit | ratio |\n|---|---|---|---|---|")
    print(overhead(options.samples, options.repetitions), flush=True)
    print(whole_run(options.samples, options.repetitions), flush=True)
    print(one_killer(1000, options.repetitions), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
