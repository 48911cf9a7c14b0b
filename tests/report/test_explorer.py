"""Which rows the page embeds: bounded, and evenly of each source's verdicts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.auditing.folder import OutputFolder
from pipeline.report.data import load_source
from pipeline.report.explorer import choose, fair_share
from tests.audit.fabricate import Fabricated


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(12, 600))
def test_shares_are_bounded_and_fair(sizes: list[int], most: int) -> None:
    shares = fair_share(sizes, most)
    assert sum(shares) <= most and all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert sum(shares) == min(sum(sizes), most)
    cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert not cut or max(shares) <= min(cut) + 1  # nobody is cut while another has more


def test_a_verdict_that_is_rare_is_not_lost_among_many(drawn: tuple[Fabricated, Path]) -> None:
    clips = load_source(OutputFolder(drawn[0].path), "clips")
    times = 400
    many = replace(
        clips,
        sample_ids=[f"{name}-{i}" for i in range(times) for name in clips.sample_ids],
        status=np.tile(clips.status, times),
        judged=np.tile(clips.judged, times),
    )
    chosen = choose([many], 2000)["clips"]
    status = dict(zip(many.sample_ids, many.status, strict=True))
    counts = {name: sum(status[each] == name for each in chosen) for name in ("kept", "rejected", "error")}
    assert sum(counts.values()) == 2000 and min(counts.values()) == 666
    order = {name: i for i, name in enumerate(many.sample_ids)}
    assert chosen == sorted(chosen, key=order.__getitem__) and len(set(chosen)) == 2000
    assert choose([clips])["clips"] == clips.sample_ids
