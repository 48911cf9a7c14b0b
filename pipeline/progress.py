"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

_PLAIN_EVERY_S = 10.0


class Progress:
    """Counts, rate and time left. Writes to stderr, so that stdout holds the result alone."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._counts: Counter[str] = Counter()
        self._bar: tqdm[Any] | None = None
        self._unit, self._total, self._done, self._said = "", 0, 0, -1
        self._started = self._spoke = time.monotonic()

    def discovered(self, source: str, count: int) -> None:
        if count % 10_000 == 0:
            self.note(f"{source}: {count} candidates found so far")

    def start_units(self, pending: int, planned: int) -> None:
        if pending < planned:
            self.note(f"{planned - pending} of {planned} candidates are done already")
        self._start("candidates", pending)

    def start_shards(self, pending: int, planned: int) -> None:
        if pending < planned:
            self.note(f"{planned - pending} of {planned} shards are packed already")
        self._start("shards", pending)

    def unit_done(self, counts: Mapping[str, int], candidates: int) -> None:
        self._counts.update(counts)
        self._advance(candidates)

    def shard_done(self, size: int) -> None:
        self._advance(1)

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._total and self._said < self._done:
            self._say()
        self._total = 0

    def _start(self, unit: str, total: int) -> None:
        self._unit, self._total, self._done, self._said = unit, total, 0, -1
        self._started = self._spoke = time.monotonic()
        if self._terminal and not self._quiet and total:
            self._bar = tqdm(total=total, unit=unit[:-1], dynamic_ncols=True)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            self._bar.set_postfix_str(self._verdicts())
        elif time.monotonic() - self._spoke > _PLAIN_EVERY_S:
            self._say()

    def _say(self) -> None:
        self._spoke, self._said = time.monotonic(), self._done
        rate = self._done / max(self._spoke - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        verdicts = self._verdicts() if self._unit == "candidates" else ""
        self.note(f"{self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left{'; ' if verdicts else ''}{verdicts}")

    def _verdicts(self) -> str:
        return ", ".join(f"{self._counts[status]} {status}" for status in ("kept", "rejected", "error", "skipped") if self._counts[status])
