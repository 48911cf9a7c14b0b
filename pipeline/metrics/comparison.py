"""Conditions compared over the same clips and seeds: means, and what the first condition gains over each of the others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.metrics.bootstrap import Interval, paired_bootstrap

MOST_DB = 100.0  # identical pictures have no finite PSNR; they count as this, which no 8-bit difference reaches


class EvaluationError(RuntimeError):
    """Results cannot be had. The message says what to change; the command ends with exit status 1."""


@dataclass(frozen=True)
class Score:
    """One generated view of one clip: means over its frames. psnr in dB, at most MOST_DB."""

    clip: str
    seed: int
    condition: str
    view: int
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Line:
    """One condition: means over clips and seeds, and the first condition's gain over it (None for itself)."""

    condition: str
    clips: int
    seeds: int
    psnr: float
    ssim: float
    psnr_gain: Interval | None
    ssim_gain: Interval | None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def compare(scores: Sequence[Score], conditions: Sequence[str], seed: int = 0) -> list[Line]:
    """A line for each condition, the first being what the others are compared with.

    Only clips and seeds that every condition has are counted, so that all differences are paired. The interval is the 95 %
    percentile interval of the mean difference, clips drawn whole with all their seeds. Raises EvaluationError where none is left.
    """
    values: dict[tuple[str, int], dict[str, list[Score]]] = {}
    for score in scores:
        values.setdefault((score.clip, score.seed), {}).setdefault(score.condition, []).append(score)
    pairs = sorted(key for key, found in values.items() if all(condition in found for condition in conditions))
    if not pairs:
        raise EvaluationError(f"no clip was generated under every condition ({', '.join(conditions)}); nothing can be compared")
    clips = [clip for clip, _ in pairs]
    table = {
        (condition, name): np.array([np.mean([getattr(score, name) for score in values[pair][condition]]) for pair in pairs])
        for condition in conditions
        for name in ("psnr", "ssim")
    }

    def gain(condition: str, name: str) -> Interval | None:
        if condition == conditions[0]:
            return None
        return paired_bootstrap(table[conditions[0], name] - table[condition, name], clips, seed=seed)

    return [
        Line(
            condition,
            len(set(clips)),
            len({seed for _, seed in pairs}),
            float(table[condition, "psnr"].mean()),
            float(table[condition, "ssim"].mean()),
            gain(condition, "psnr"),
            gain(condition, "ssim"),
        )
        for condition in conditions
    ]


def table_of(lines: Sequence[Line]) -> str:
    """For a terminal."""
    from pipeline.auditing.layout import text_table

    first = lines[0].condition
    header = ["condition", "PSNR dB", "SSIM", f"{first} gains, dB [95 %]", f"{first} gains, SSIM [95 %]"]
    rows = [
        [line.condition, f"{line.psnr:.2f}", f"{line.ssim:.4f}", _interval(line.psnr_gain, 2), _interval(line.ssim_gain, 4)]
        for line in lines
    ]
    seeds = f"{lines[0].seeds} seed{'s' if lines[0].seeds > 1 else ''}"
    return text_table(header, rows) + f"\n{lines[0].clips} clips, {seeds}; intervals: paired bootstrap over clips"


def _interval(found: Interval | None, digits: int) -> str:
    return "-" if found is None else f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
