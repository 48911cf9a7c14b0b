"""Conditions compared: which pairs count, what the means are, and what the table says."""

import pytest

from pipeline.metrics.comparison import EvaluationError, Score, compare, table_of


def scores(values: dict[tuple[str, int, str], list[tuple[float, float]]]) -> list[Score]:
    return [
        Score(clip, seed, condition, view, psnr, ssim)
        for (clip, seed, condition), views in values.items()
        for view, (psnr, ssim) in enumerate(views, 1)
    ]


def test_views_are_averaged_within_a_clip_and_differences_are_paired():
    found = scores(
        {
            ("a", 0, "full"): [(20.0, 0.5), (24.0, 0.7)],
            ("a", 0, "off"): [(19.0, 0.5), (21.0, 0.5)],
            ("b", 0, "full"): [(30.0, 0.9)],
            ("b", 0, "off"): [(26.0, 0.8)],
        }
    )
    full, off = compare(found, ["full", "off"])
    assert (full.psnr, off.psnr) == ((22 + 30) / 2, (20 + 26) / 2)
    assert full.ssim == pytest.approx((0.6 + 0.9) / 2) and full.psnr_gain is None
    assert off.psnr_gain.mean == 3.0 and (off.psnr_gain.low, off.psnr_gain.high) == (2.0, 4.0)
    assert off.ssim_gain.mean == pytest.approx(0.1)
    assert (off.clips, off.seeds) == (2, 1)


def test_a_clip_that_lacks_a_condition_is_in_no_mean():
    found = scores({("a", 0, "full"): [(20.0, 0.5)], ("a", 0, "off"): [(19.0, 0.4)], ("b", 0, "full"): [(90.0, 0.9)]})
    full, off = compare(found, ["full", "off"])
    assert (full.psnr, off.psnr, full.clips) == (20.0, 19.0, 1)
    with pytest.raises(EvaluationError, match="no clip was generated under every condition"):
        compare(found[-1:], ["full", "off"])


def test_seeds_of_a_clip_are_drawn_together():
    values = {}
    for i in range(20):
        for seed in range(3):
            values[f"c{i}", seed, "full"] = [(20.0 + (i % 2), 0.5)]
            values[f"c{i}", seed, "off"] = [(20.0, 0.5)]
    line = compare(scores(values), ["full", "off"])[1]
    once = compare([score for score in scores(values) if score.seed == 0], ["full", "off"])[1]
    assert (line.clips, line.seeds, line.psnr_gain.clusters, line.psnr_gain.values) == (20, 3, 20, 60)
    assert (line.psnr_gain.low, line.psnr_gain.high) == pytest.approx((once.psnr_gain.low, once.psnr_gain.high))


def test_the_table_names_conditions_gains_intervals_and_counts():
    found = scores({(clip, 0, name): [(value, 0.5)] for clip in "ab" for name, value in (("full", 21.5), ("off", 20.0))})
    said = table_of(compare(found, ["full", "off"]))
    assert "full gains, dB [95 %]" in said and "+1.50 [+1.50, +1.50]" in said and "2 clips, 1 seed;" in said
