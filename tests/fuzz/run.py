"""Runs targets: as many examples as asked, or for as long as asked."""

import os
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.target import Target

MEMORY = "/dev/shm"  # a file system without a disk, where there is one: every example makes and removes files


@dataclass
class Outcome:
    """examples: that were run. outcomes: how many ended in what. failures: text of each, with what makes it happen again."""

    examples: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run_examples(target: Target, examples: int, number: int | None, outcome: Outcome, shrink: bool = True) -> None:
    """So many examples of the seed `number`; None: the same ones every time. Raises what the target raised, with `shrink` its input
    made small, which may take minutes."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as around:

        @settings(
            max_examples=examples,
            derandomize=number is None,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
        )
        @given(value=target.inputs)
        def one(value: Any) -> None:
            started = time.perf_counter()
            outcome.outcomes[target.try_one(value, Path(around))] += 1
            outcome.examples += 1
            outcome.seconds += time.perf_counter() - started

        (one if number is None else seed(number)(one))()


def run_for(target: Target, seconds: float, first_seed: int, batch: int = 25) -> Outcome:
    """Batches of fresh seeds for that long. A failure ends its batch only, and is told once for each place that it comes from."""
    outcome = Outcome()
    places = set()
    ends = time.monotonic() + seconds
    number = first_seed
    while time.monotonic() < ends:
        started = time.monotonic()
        try:
            run_examples(target, batch, number, outcome, shrink=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            place = (type(error), *((step.filename, step.lineno) for step in traceback.extract_tb(error.__traceback__)[-3:]))
            if place not in places:
                outcome.failures.append(f"--target {target.name!r} --seed {number} --examples {batch}\n{_told(error)}")
            places.add(place)
        took = time.monotonic() - started
        batch = max(5, min(1000, int(batch * min(2.0, 0.2 * seconds / max(took, 1e-3)))))
        number += 1
    return outcome


def _told(error: BaseException) -> str:
    """The last steps, the error, and the input."""
    steps = "".join(traceback.format_tb(error.__traceback__)[-5:])
    notes = "\n".join(getattr(error, "__notes__", ()))
    return f"{steps}{type(error).__name__}: {str(error)[:600]}\n{notes[:400]}\n"
