"""How the benchmarks of stages measure: work in turns, and what a process has of memory."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def in_turns(work: Sequence[Callable[[], object]], rounds: int) -> tuple[list[float], float]:
    """Seconds of a stage, of its model alone and of the decode alone, in this order: medians over rounds in which they take turns. And
    the median of the rounds' (model + decode) / stage, which a busy machine bends least."""
    took = np.array([[_seconds(run) for run in work] for _ in range(rounds)])
    return np.median(took, axis=0).tolist(), float(np.median((took[:, 1] + took[:, 2]) / took[:, 0]))


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def memory_mib() -> tuple[float, float]:
    """What this process has, and at most had. Not getrusage's peak, which a process takes over from the one that starts it."""
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(said["VmRSS"].split()[0]) / 1024, int(said["VmHWM"].split()[0]) / 1024
