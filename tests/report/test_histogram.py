"""Histograms count every row once and never mix both sides of the limit in one bin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts import log_ticks, nice_ticks
from pipeline.report.histogram import Histogram, make_histogram
from schemas.verdict import Reason
from stages.stage import Limit

SHARP = Limit("min_sharpness", "sharpness", ">=", 60.0, Reason.BLURRED)
numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))


def check_counts(histogram: Histogram, values: np.ndarray, kept: np.ndarray) -> None:
    """Count again by brute force: beyond, kept, other over all bins, and where the bars of each kind stand."""
    known = np.isfinite(values)
    values, kept = values[known], kept[known]
    outside = np.array([any(limit.violated(value) for limit in histogram.limits) for value in values], bool)
    assert histogram.beyond.sum() == outside.sum()
    assert histogram.kept.sum() == (kept & ~outside).sum()
    assert histogram.other.sum() == (~kept & ~outside).sum()
    assert histogram.total == len(values)
    assert (np.diff(histogram.edges) > 0).all()
    if histogram.limits:
        limit = histogram.limits[0]
        inside = histogram.edges[:-1] >= limit.value * (1 - 1e-12) if limit.op == ">=" else histogram.edges[1:] <= limit.value * (1 + 1e-12)
        if len(histogram.limits) == 1 and limit.value > 0:
            assert histogram.beyond[inside].sum() == 0
            assert (histogram.kept + histogram.other)[~inside].sum() == 0
        assert any(np.isclose(histogram.edges, limit.value, rtol=1e-9, atol=1e-9))


@given(
    st.lists(st.tuples(numbers | st.just(float("nan")), st.booleans()), min_size=1, max_size=60),
    st.lists(st.tuples(numbers.filter(lambda x: x > 1e-3), st.sampled_from([">=", "<="])), max_size=2),
)
@settings(max_examples=300, deadline=None)
def test_counts_add_up_and_bins_never_straddle_the_limit(rows: list[tuple[float, bool]], lines: list[tuple[float, str]]) -> None:
    values, kept = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    limits = [Limit("k", "sharpness", op, value, Reason.BLURRED) for value, op in lines]
    histogram = make_histogram("sharpness", values, kept, limits)
    if histogram is None:
        assert not np.isfinite(values).any()
    else:
        check_counts(histogram, values, kept)


def test_a_value_on_the_limit_is_inside_for_both_kinds() -> None:
    values, kept = np.array([59.999, 60.0, 60.001]), np.array([True, True, True])
    low = make_histogram("sharpness", values, kept, [SHARP])
    high = make_histogram("sharpness", values, kept, [Limit("m", "sharpness", "<=", 60.0, Reason.BLURRED)])
    assert low is not None and (low.beyond.sum(), low.kept.sum()) == (1, 2)
    assert high is not None and (high.beyond.sum(), high.kept.sum()) == (1, 2)


def test_whole_numbers_get_whole_bins_and_positive_spread_a_logarithmic_axis() -> None:
    views = make_histogram("n_views", np.array([2.0, 4.0, 4.0, 10.0]), np.ones(4, bool), [])
    assert views is not None and views.single and views.edges[0] >= 0
    assert {float(low): int(n) for low, n in zip(views.edges[:-1], views.kept, strict=True) if n} == {2.0: 1, 4.0: 2, 10.0: 1}
    wide = make_histogram("sharpness", np.array([1.0, 2.0, 3.0, 5000.0]), np.ones(4, bool), [SHARP])
    assert wide is not None and wide.logarithmic and wide.beyond.sum() == 3


def test_nothing_known_gives_no_histogram() -> None:
    assert make_histogram("sharpness", np.array([np.nan, np.nan]), np.array([True, False]), [SHARP]) is None


@given(numbers, st.floats(1e-6, 1e6))
def test_ticks_lie_inside_and_are_few(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high, 5)
    assert len(ticks) <= 11
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)


@pytest.mark.parametrize(("low", "high", "expected"), [(0.8, 120, [1, 2, 5, 10, 20, 50, 100]), (0.01, 1000, [0.01, 0.1, 1, 10, 100, 1000])])
def test_logarithmic_ticks(low: float, high: float, expected: list[float]) -> None:
    found = log_ticks(low, high)
    assert found == expected or found == [tick for tick in expected if np.log10(tick) == round(np.log10(tick))]
