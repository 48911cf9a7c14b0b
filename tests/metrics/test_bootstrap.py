"""The paired bootstrap: its interval covers the truth as often as it says, and pairs and clusters count as such."""

import math

import numpy as np
import pytest

from pipeline.metrics.bootstrap import paired_bootstrap


def test_the_interval_of_normal_differences_is_the_textbook_one():
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    found = paired_bootstrap(values, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert (found.values, found.clusters, found.level) == (400, 400, 0.95)


def test_it_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [paired_bootstrap(rng.normal(0.3, 1.0, 60), seed=i, resamples=500, level=0.9) for i in range(400)]
    share = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert 0.86 <= share <= 0.94  # 0.9 within 2.7 standard errors of 400 trials


def test_values_of_one_cluster_are_no_independent_evidence():
    """Three seeds that agree say no more of the clips than one seed does: the interval must not shrink by sqrt(3)."""
    clips = np.random.default_rng(3).normal(0.5, 1.0, 50)
    once = paired_bootstrap(clips, seed=4)
    labels = [f"clip{i}" for i in range(50) for _ in range(3)]
    thrice = paired_bootstrap(np.repeat(clips, 3), labels, seed=4)
    assert (thrice.values, thrice.clusters) == (150, 50)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=1e-12)
    naive = paired_bootstrap(np.repeat(clips, 3), seed=4)
    assert naive.high - naive.low < 0.7 * (thrice.high - thrice.low)


def test_clusters_cover_the_truth_where_independent_values_would_not():
    rng = np.random.default_rng(5)
    labels = [i for i in range(40) for _ in range(3)]
    inside = [0, 0]
    for trial in range(200):
        values = np.repeat(rng.normal(0, 1.0, 40), 3) + rng.normal(0, 0.2, 120)
        for k, clusters in enumerate((labels, None)):
            found = paired_bootstrap(values, clusters, seed=trial, resamples=400)
            inside[k] += found.low <= 0 <= found.high
    assert inside[0] >= 178  # of 200, for a level of 0.95: 12 below the expectation, about four standard errors
    assert inside[1] <= 165


def test_equal_arguments_give_equal_results_and_another_seed_another_draw():
    values = np.random.default_rng(6).normal(size=30)
    assert paired_bootstrap(values, seed=7) == paired_bootstrap(list(values), seed=7)
    assert paired_bootstrap(values, seed=7) != paired_bootstrap(values, seed=8)


def test_an_order_of_clusters_or_their_names_change_nothing():
    values = [1.0, 2.0, 4.0, 8.0]
    assert paired_bootstrap(values, ["a", "a", "b", "b"]) == paired_bootstrap(values, [9, 9, 3, 3])


def test_one_value_is_its_own_interval_and_equal_values_leave_no_doubt():
    one = paired_bootstrap([1.5])
    assert (one.mean, one.low, one.high) == (1.5, 1.5, 1.5)
    assert paired_bootstrap([2.0] * 9).excludes_zero and not paired_bootstrap([-1.0, 1.0] * 20).excludes_zero


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        ([], {}, "at least one number"),
        ([1.0, float("inf")], {}, "difference 1 is inf"),
        ([[1.0]], {}, "shape"),
        ([1.0, 2.0], {"clusters": ["a"]}, "as many cluster labels"),
        ([1.0], {"level": 1.5}, "level"),
        ([1.0], {"resamples": 0}, "resamples"),
    ],
)
def test_what_has_no_mean_is_refused(values, more, said):
    with pytest.raises(ValueError, match=said):
        paired_bootstrap(values, **more)
