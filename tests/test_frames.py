"""Times of frames, against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from schemas.frames import FrameIndex


@pytest.mark.parametrize(
    "time_base", [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 1_000_000_000), Fraction(1, 12_288), Fraction(1, 1_000_000)]
)
def test_pts_ns_is_the_nearest_nanosecond_also_after_years(time_base):
    largest = int(10 * 365 * 86_400 / time_base)  # ten years
    pts = np.unique(np.concatenate([np.arange(-5, 50), np.random.default_rng(0).integers(0, largest, 200)]))
    index = FrameIndex(pts, pts[:1], time_base, 16, 16, Fraction(30), "h264")
    exact = [int(p) * time_base * 1_000_000_000 for p in pts]
    assert all(abs(int(ns) - want) <= Fraction(1, 2) for ns, want in zip(index.pts_ns, exact, strict=True))


def test_duration_counts_the_last_frame():
    index = FrameIndex(np.arange(0, 50, 2), np.array([0]), Fraction(1, 50), 16, 16, Fraction(25), "h264")
    assert index.duration_s == pytest.approx(1.0)
