"""Charts as inline SVG. Colours come from the page's style sheet; every bar carries its numbers as data attributes."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipeline.auditing.layout import format_number
from pipeline.report.histogram import Histogram
from schemas.manifest import ANGLE_BINS
from schemas.scores import SCORES

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 22, 24  # margins around the plot
_LEAST = 2.0  # a bar of one row stays visible beside one of a million

Scale = Callable[[float], float]


def status_bar(counts: Mapping[str, int]) -> str:
    """A bar split by status, widths in per cent of the total."""
    total = sum(counts.values())
    parts, x = [], 0.0
    for status, count in counts.items():
        width = 100 * count / total if total else 0.0
        if count:
            tip = f"<title>{count:,} {escape(status)} ({count / total:.1%})</title>"
            parts.append(f'<rect class="fill-{escape(status)}" x="{x:.3f}%" width="{width:.3f}%" height="100%">{tip}</rect>')
        x += width
    return f'<svg class="status-bar" role="img" aria-label="{escape(_spoken(counts))}">{"".join(parts)}</svg>'


def _spoken(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def histogram_chart(histogram: Histogram, source: str) -> str:
    """Stacked bars (kept, dropped for something else, beyond the limit) with a line at every limit."""
    edges = histogram.edges
    x = _scale(edges, histogram.logarithmic)
    bottom = HEIGHT - BOTTOM
    tallest = max(1, histogram.tallest)

    def height(count: int) -> float:
        return max(_LEAST, (bottom - TOP) * count / tallest) if count else 0.0

    shapes = [_shade(histogram, x), _count_axis(tallest, bottom)]
    for i in range(len(edges) - 1):
        counts = {"kept": int(histogram.kept[i]), "other": int(histogram.other[i]), "beyond": int(histogram.beyond[i])}
        if not any(counts.values()):
            continue
        left, right = x(edges[i]), x(edges[i + 1])
        y, parts = float(bottom), []
        for name, count in counts.items():
            y -= height(count)
            parts.append(f'<rect class="bar-{name}" x="{left + 0.6:.2f}" y="{y:.2f}" width="{max(1.0, right - left - 1.2):.2f}" height="{height(count):.2f}"/>')
        span = f"{format_number(edges[i])} to {format_number(edges[i + 1])} {SCORES[histogram.score].unit}"
        tip = f"{span}\n{counts['kept']:,} kept, {counts['beyond']:,} beyond the limit, {counts['other']:,} dropped for something else"
        data = " ".join(f'data-{name}="{count}"' for name, count in counts.items())
        shapes.append(f'<g class="bin" data-low="{edges[i]!r}" data-high="{edges[i + 1]!r}" {data}><title>{escape(tip)}</title>{"".join(parts)}</g>')
    shapes += [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>', _value_axis(edges, histogram.logarithmic, x, bottom)]
    shapes += _limit_lines(histogram, x, bottom)
    label = f"{histogram.score}: {histogram.total} values, median {format_number(histogram.median)}"
    return (
        f'<svg class="chart histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" data-source="{escape(source)}" '
        f'data-score="{escape(histogram.score)}">{"".join(shapes)}</svg>'
    )


def _shade(histogram: Histogram, x: Scale) -> str:
    """A tint over what lies beyond each limit."""
    out = []
    for limit in histogram.limits:
        at = x(limit.value)
        left, right = (LEFT, at) if limit.op == ">=" else (at, WIDTH - RIGHT)
        out.append(f'<rect class="beyond" x="{left:.2f}" y="{TOP}" width="{max(0.0, right - left):.2f}" height="{HEIGHT - BOTTOM - TOP}"/>')
    return "".join(out)


def _limit_lines(histogram: Histogram, x: Scale, bottom: float) -> list[str]:
    lines = []
    for limit in histogram.limits:
        at = x(limit.value)
        anchor, offset = ("end", -5) if at > WIDTH / 2 else ("start", 5)
        sign = "≥" if limit.op == ">=" else "≤"
        lines.append(f'<line class="limit" data-value="{limit.value!r}" data-op="{escape(limit.op)}" x1="{at:.2f}" x2="{at:.2f}" y1="{TOP - 12}" y2="{bottom}"/>')
        lines.append(f'<text class="limit-label" x="{at + offset:.2f}" y="{TOP - 8}" text-anchor="{anchor}">keep {sign} {format_number(limit.value)}</text>')
    return lines


def _scale(edges: NDArray[np.float64], logarithmic: bool) -> Scale:
    low, high = float(edges[0]), float(edges[-1])
    span = WIDTH - LEFT - RIGHT
    if logarithmic:
        return lambda value: LEFT + span * (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return lambda value: LEFT + span * (value - low) / (high - low)


def _value_axis(edges: NDArray[np.float64], logarithmic: bool, x: Scale, bottom: float) -> str:
    low, high = float(edges[0]), float(edges[-1])
    ticks = log_ticks(low, high) if logarithmic else nice_ticks(low, high, 5)
    out = []
    for tick in ticks:
        at = x(tick)
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        out.append(f'<line class="tick" x1="{at:.2f}" x2="{at:.2f}" y1="{bottom}" y2="{bottom + 4}"/>')
        out.append(f'<text class="tick-label" x="{at:.2f}" y="{bottom + 16}" text-anchor="{anchor}">{format_number(tick)}</text>')
    return "".join(out)


def _count_axis(tallest: int, bottom: float) -> str:
    out = []
    for tick in nice_ticks(0, tallest, 3):
        if tick != int(tick) or tick == 0:
            continue
        y = bottom - (bottom - TOP) * tick / tallest
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>')
        out.append(f'<text class="tick-label" x="{LEFT - 5}" y="{y + 3.5:.2f}" text-anchor="end">{_short(int(tick))}</text>')
    return "".join(out)


def _short(count: int) -> str:
    return f"{count / 1e6:g}M" if count >= 1_000_000 else f"{count / 1e3:g}k" if count >= 1000 else str(count)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers within [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    # Rounding removes what binary fractions add: 0.30000000000000004 would be a tick's label.
    return [float(f"{k * step:.10g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high], thinned to powers of ten where they would crowd."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in every if low <= tick <= high]
    if len(inside) > 6:
        inside = [tick for tick in inside if math.log10(tick) == round(math.log10(tick))]
    return [float(f"{tick:.10g}") for tick in inside]


def angle_chart(angles: NDArray[np.float64], source: str) -> str:
    """Histogram of pair angles in 5 degree bins, above the brackets of the curriculum's bins."""
    counts, edges = np.histogram(angles, bins=np.arange(0, 181, 5))
    bottom, tallest = HEIGHT - BOTTOM - 34, max(1, int(counts.max()))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / 180

    shapes = [_count_axis(tallest, bottom)]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        if count:
            height = max(_LEAST, (bottom - TOP) * count / tallest)
            tip = f"{low} to {high} degrees: {count:,} pairs"
            shapes.append(
                f'<g class="bin" data-low="{low}" data-high="{high}" data-kept="{count}"><title>{tip}</title><rect class="bar-kept" '
                f'x="{x(low) + 0.6:.2f}" y="{bottom - height:.2f}" width="{x(5) - x(0) - 1.2:.2f}" height="{height:.2f}"/></g>'
            )
    shapes.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for tick in range(0, 181, 30):
        shapes.append(f'<text class="tick-label" x="{x(tick):.2f}" y="{bottom + 14}" text-anchor="{"end" if tick == 180 else "middle"}">{tick}°</text>')
    shapes += [_bracket(name, x(low), x(high), bottom + 24 + 13 * i) for i, (name, (low, high)) in enumerate(ANGLE_BINS.items())]
    label = f"{len(angles)} pair angles, median {format_number(float(np.median(angles)))} degrees"
    return f'<svg class="chart angles" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" data-source="{escape(source)}">{"".join(shapes)}</svg>'


def _bracket(name: str, left: float, right: float, y: float) -> str:
    return (
        f'<path class="bracket" d="M{left:.2f} {y - 3:.2f}v6m0-3H{right:.2f}m0-3v6"/>'
        f'<text class="tick-label" x="{right + 6:.2f}" y="{y + 3.5:.2f}">{escape(name)}°</text>'
    )


def bar(count: int, largest: int, kind: str) -> str:
    """A horizontal bar for a table cell."""
    return f'<svg class="cell-bar" aria-hidden="true"><rect class="fill-{escape(kind)}" width="{100 * count / max(largest, 1):.2f}%" height="100%"/></svg>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(css class, text) pairs as a line of swatches."""
    return '<p class="legend">' + "".join(f'<span><i class="{escape(kind)}"></i>{escape(text)}</span>' for kind, text in entries) + "</p>"
