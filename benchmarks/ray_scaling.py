"""python -m benchmarks.ray_scaling: clips/s of a decode-bound recipe with one Ray worker and with two.

Whole curations with every frame of every video decoded, on one local Ray cluster, whose workers are warm before the clock. Runs with
one worker and with two take turns, and so do one and two processes that only decode, which says what the machine allows at the
moment: a second worker cannot use a core that somebody else uses. Each ratio is the median over the rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.curation import DECODE_STAGES, curate, decode, make_scenes
from benchmarks.table import print_table
from pipeline.executors.ray import RayExecutor, connect

LEAST = 1.8
CAMERAS, FRAMES, SIZE = 2, 81, 1280


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def with_workers(footage: Path, output: Path, workers: int) -> None:
    shutil.rmtree(output, ignore_errors=True)
    executor = RayExecutor(workers)
    curate(footage, output, executor, DECODE_STAGES, unit=1)
    executor.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=24, help=f"of {CAMERAS} videos each; a unit is one scene (default: 24)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import ray

    connect(workers=2)
    with tempfile.TemporaryDirectory() as name, get_context("spawn").Pool(1) as one, get_context("spawn").Pool(2) as two:
        footage = make_scenes(Path(name) / "footage", options.scenes, CAMERAS, FRAMES, SIZE)
        videos = [(str(path), "") for path in sorted(footage.rglob("*.mp4"))]
        work: list[Callable[[], object]] = [partial(with_workers, footage, Path(name) / "out", workers) for workers in (1, 2)]
        work += [partial(pool.map, decode, videos, chunksize=1) for pool in (one, two)]
        for warm in (work[1], work[2], work[3]):
            warm()
        rounds = [[seconds(each) for each in work] for _ in range(options.rounds)]
    ray.shutdown()
    rates = [len(videos) / statistics.median(column) for column in zip(*rounds, strict=True)]
    ours, bare = (statistics.median(each[i] / each[i + 1] for each in rounds) for i in (0, 2))
    print(f"{len(videos)} clips of {FRAMES} frames, {SIZE}x{SIZE}; {options.rounds} rounds; ratios: two workers over one\n")
    print_table([
        ("curate on Ray, 2 workers", f"{rates[1]:.2f} clips/s", "1 worker", f"{rates[0]:.2f} clips/s", ours, LEAST),
        ("decode alone, 2 processes", f"{rates[3]:.2f} clips/s", "1 process", f"{rates[2]:.2f} clips/s", bare, LEAST),
    ])  # fmt: skip
    print("\nratios of the rounds:", ", ".join(f"{each[0] / each[1]:.2f} ({each[2] / each[3]:.2f})" for each in rounds))


if __name__ == "__main__":
    main()
