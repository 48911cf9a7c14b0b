"""Watchers that count the frames they see: what the sharing of one decode is tested with."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.stage import Findings, Item, Look, Shown, Watcher


@dataclass(frozen=True)
class Settings:
    pass


class Ends(Watcher):
    """Looks at the first and the last frame alone."""

    name = "ends"
    version = 1
    needs = frozenset({"video"})
    Config = Settings

    def wants(self, item: Item) -> list[Look]:
        [(_, frames)] = item.selection()
        return [Look(0, frames[[0, -1]])]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        return Findings({"n_lines": float(np.mean([shown.pixels.mean() for shown in frames]))})


class Every(Watcher):
    """Looks at all frames."""

    name = "every"
    version = 1
    needs = frozenset({"video"})
    Config = Settings

    def wants(self, item: Item) -> list[Look]:
        [(_, frames)] = item.selection()
        return [Look(0, frames)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        return Findings({"n_masks": sum(1 for _ in frames)})
