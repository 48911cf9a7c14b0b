"""Charts as inline SVG. Colours come from the page's style sheet; every bar carries its numbers as data attributes."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipeline.auditing.layout import format_number
from pipeline.report.histogram import Histogram
from pipeline.report.markup import chart, label, line, rect
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
            parts.append(rect(f"bar-{name}", left + 0.6, y, right - left - 1.2, height(count)))
        span = f"{_span(histogram, i)} {SCORES[histogram.score].unit}"
        tip = f"{span}\n{counts['kept']:,} kept, {counts['beyond']:,} beyond the limit, {counts['other']:,} dropped for something else"
        data = f'data-low="{float(edges[i])!r}" data-high="{float(edges[i + 1])!r}" '
        data += " ".join(f'data-{name}="{count}"' for name, count in counts.items())
        shapes.append(f'<g class="bin" {data}><title>{escape(tip)}</title>{"".join(parts)}</g>')
    shapes += [line("axis", LEFT, bottom, WIDTH - RIGHT, bottom), _value_axis(histogram, x, bottom), *_limit_lines(histogram, x, bottom)]
    spoken = f"{histogram.score}: {histogram.total} values, median {format_number(histogram.median)}"
    return chart("histogram", WIDTH, HEIGHT, spoken, shapes, source=source, score=histogram.score)


def _shade(histogram: Histogram, x: Scale) -> str:
    """A tint over what lies beyond each limit."""
    out = []
    for limit in histogram.limits:
        at = x(limit.value)
        left, right = (LEFT, at) if limit.op == ">=" else (at, WIDTH - RIGHT)
        out.append(rect("beyond", left, TOP, right - left, HEIGHT - BOTTOM - TOP))
    return "".join(out)


def _limit_lines(histogram: Histogram, x: Scale, bottom: float) -> list[str]:
    lines = []
    for limit in histogram.limits:
        at = x(limit.value)
        anchor, offset = ("end", -5) if at > WIDTH / 2 else ("start", 5)
        sign = "≥" if limit.op == ">=" else "≤"
        lines.append(line("limit", at, TOP - 12, at, bottom, f'data-value="{limit.value!r}" data-op="{escape(limit.op)}"'))
        lines.append(label("limit-label", at + offset, TOP - 8, f"keep {sign} {format_number(limit.value)}", anchor))
    return lines


def _scale(edges: NDArray[np.float64], logarithmic: bool) -> Scale:
    low, high = float(edges[0]), float(edges[-1])
    span = WIDTH - LEFT - RIGHT
    if logarithmic:
        return lambda value: LEFT + span * (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return lambda value: LEFT + span * (value - low) / (high - low)


def _span(histogram: Histogram, i: int) -> str:
    low, high = histogram.edges[i], histogram.edges[i + 1]
    if histogram.single:
        return format_number(high if histogram.closed_right else low)
    return f"{format_number(low)} to {format_number(high)}"


def _value_axis(histogram: Histogram, x: Scale, bottom: float) -> str:
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    ticks = log_ticks(low, high) if histogram.logarithmic else nice_ticks(low, high, 5)
    # A bin that holds one whole number is labelled in its middle, so that the bar of 4 stands over "4".
    shift = 0.0 if not histogram.single else -0.5 if histogram.closed_right else 0.5
    out = []
    for tick in ticks:
        if (histogram.single and tick != int(tick)) or not low <= tick + shift <= high:
            continue
        at = x(tick + shift)
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        out.append(line("tick", at, bottom, at, bottom + 4) + label("tick-label", at, bottom + 16, format_number(tick), anchor))
    return "".join(out)


def _count_axis(tallest: int, bottom: float) -> str:
    out = []
    for tick in nice_ticks(0, tallest, 3):
        if tick != int(tick) or tick == 0:
            continue
        y = bottom - (bottom - TOP) * tick / tallest
        out.append(line("grid", LEFT, y, WIDTH - RIGHT, y) + label("tick-label", LEFT - 5, y + 3.5, _short(int(tick)), "end"))
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
            tip = f"<title>{low} to {high} degrees: {count:,} pairs</title>"
            shape = rect("bar-kept", x(low) + 0.6, bottom - height, x(5) - x(0) - 1.2, height)
            shapes.append(f'<g class="bin" data-low="{low}" data-high="{high}" data-kept="{count}">{tip}{shape}</g>')
    shapes.append(line("axis", LEFT, bottom, WIDTH - RIGHT, bottom))
    shapes += [label("tick-label", x(tick), bottom + 14, f"{tick}°", "end" if tick == 180 else "middle") for tick in range(0, 181, 30)]
    shapes += [_bracket(name, x(low), x(high), bottom + 24 + 13 * i) for i, (name, (low, high)) in enumerate(ANGLE_BINS.items())]
    spoken = f"{len(angles)} pair angles, median {format_number(float(np.median(angles)))} degrees"
    return chart("angles", WIDTH, HEIGHT, spoken, shapes, source=source)


def _bracket(name: str, left: float, right: float, y: float) -> str:
    path = f'<path class="bracket" d="M{left:.2f} {y - 3:.2f}v6m0-3H{right:.2f}m0-3v6"/>'
    return path + label("tick-label", right + 6, y + 3.5, f"{name}°", "start")


def bar(count: int, largest: int, kind: str) -> str:
    """A horizontal bar for a table cell."""
    width = 100 * count / max(largest, 1)
    return f'<svg class="cell-bar" aria-hidden="true"><rect class="fill-{escape(kind)}" width="{width:.2f}%" height="100%"/></svg>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(css class, text) pairs as a line of swatches."""
    return '<p class="legend">' + "".join(f'<span><i class="{escape(kind)}"></i>{escape(text)}</span>' for kind, text in entries) + "</p>"
