"""People across frames: who crosses, who leaves, who comes, and who is not there for a while."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scipy is not installed (extra: perception)")

from schemas.verdict import CandidateError, Reason
from stages.perception.linking import MEMORY, distance, link
from stages.perception.openpose import BODY, FOUND, nobody
from stages.perception.results import People

RNG = np.random.default_rng(7)
SHAPE = RNG.uniform([-20, -60], [20, 60], (134, 2)).astype(np.float32)  # one body ...
SHAPE[:2] = (-20, -60), (20, 60)  # ... of 40 x 120 pixels


def at(*places: tuple[float, float], size: float = 1.0) -> People:
    """People around these places, all in the same pose."""
    if not places:
        return nobody()
    keypoints = np.stack([SHAPE * size + np.float32(place) for place in places])
    return People(keypoints.astype(np.float32), np.full(keypoints.shape[:2], 0.8, np.float32))


def middles(keypoints: np.ndarray) -> np.ndarray:
    return keypoints[..., BODY, :].mean(-2) - SHAPE[BODY].mean(0)


def shuffled(people: People, seed: int) -> People:
    order = np.random.default_rng(seed).permutation(len(people.keypoints))
    return People(people.keypoints[order], people.scores[order])


def test_whoever_stays_keeps_the_number_whatever_the_detectors_order() -> None:
    places = np.array([(100, 100), (300, 120), (500, 90)], float)
    linked = link([shuffled(at(*map(tuple, np.add(places, [4 * t, 2 * t]))), t if t else 0) for t in range(12)])
    assert linked.ids.tolist() == [0, 1, 2] and linked.present.all()
    paths = middles(linked.keypoints)
    assert np.allclose(np.diff(paths, axis=0), [4, 2], atol=1e-3)


def test_two_who_cross_keep_their_numbers() -> None:
    """They pass each other 10 pixels apart, 12 pixels a frame: nearest neighbours alone would swap them where they meet."""
    frames = [shuffled(at((100 + 12 * t, 200), (340 - 12 * t, 210)), t) for t in range(21)]
    paths = middles(link(frames).keypoints)
    first = 0 if abs(paths[0, 0, 0] - 100) < 1 else 1
    assert np.allclose(paths[:, first, 0], 100 + 12 * np.arange(21), atol=1e-3)
    assert np.allclose(paths[:, 1 - first, 0], 340 - 12 * np.arange(21), atol=1e-3)


def test_one_hidden_behind_another_while_they_cross_comes_back_as_the_same() -> None:
    frames = []
    for t in range(21):
        people = at((100 + 12 * t, 200), (340 - 12 * t, 210))
        frames.append(at((100 + 12 * t, 200)) if 9 <= t <= 11 else people)
    linked = link(frames)
    assert linked.present.sum(0).tolist() == [21, 18]
    assert np.allclose(middles(linked.keypoints)[12:, 1, 0], 340 - 12 * np.arange(12, 21), atol=1e-3)


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1), (2, 0), (0, 2)])
def test_unequal_numbers(first: int, second: int) -> None:
    places = [(100.0 + 200 * i, 150.0) for i in range(3)]
    linked = link([at(*places[:first]), at(*places[3 - second :])])
    assert linked.present.sum(1).tolist() == [first, second]
    both = linked.present.all(0)
    assert both.sum() == max(0, first + second - 3)
    assert len(linked.ids) == first + second - both.sum()
    assert (linked.scores[~linked.present] == 0).all() and (linked.keypoints[~linked.present] == 0).all()
    for place in np.flatnonzero(both):
        assert np.allclose(middles(linked.keypoints)[0, place], middles(linked.keypoints)[1, place])


def test_all_pairs_are_decided_together() -> None:
    """The nearest first would give 140 to 130, and leave 100 and 165 to each other, who are too far apart."""
    linked = link([at((100, 0), (140, 0)), at((130, 0), (165, 0))])
    assert middles(linked.keypoints)[:, 0, 0] == pytest.approx([100, 130], abs=1e-3)
    assert middles(linked.keypoints)[:, 1, 0] == pytest.approx([140, 165], abs=1e-3)


def test_too_far_is_somebody_else_and_size_is_what_measures() -> None:
    assert len(link([at((100, 100)), at((180, 100))]).ids) == 2  # 80 of 120 pixels
    assert len(link([at((100, 100), size=3), at((180, 100), size=3)]).ids) == 1  # 80 of 360


def test_forgotten_after_a_while() -> None:
    for away, expected in ((MEMORY - 1, 1), (MEMORY, 2)):
        assert len(link([at((100, 100)), *[nobody()] * away, at((100, 100))]).ids) == expected


def test_bodies_that_share_too_little_are_compared_by_their_boxes() -> None:
    upper, lower = at((100, 100)), at((104, 100))
    upper.scores[:, 9:18], lower.scores[:, :9] = 0, 0
    upper.scores[:, 18:], lower.scores[:, 18:] = 0, 0
    assert len(link([upper, lower]).ids) == 1
    nothing = People(upper.keypoints, np.zeros_like(upper.scores))
    assert distance(upper.keypoints[0], upper.scores[0], nothing.keypoints[0], nothing.scores[0]) == np.inf


def test_nobody_and_nothing() -> None:
    assert link([]).keypoints.shape == (0, 0, 134, 2)
    linked = link([nobody(), nobody()])
    assert linked.keypoints.shape == (2, 0, 134, 2) and linked.present.shape == (2, 0) and len(linked.ids) == 0
    assert linked.through == 0 and linked.body_score is None


def passing(frames: int, lanes: int, seed: int = 0) -> Iterator[People]:
    """People come into each lane of their own one after another, stay a while, and are not always seen."""
    rng = np.random.default_rng(seed)
    left = rng.integers(1, 12, lanes)
    place = np.stack([300.0 * np.arange(lanes), np.zeros(lanes)], axis=1)
    for _ in range(frames):
        left -= 1
        for lane in np.flatnonzero(left < 0):  # somebody else, too far away to be the same
            left[lane] = rng.integers(1, 12)
            place[lane, 1] += 500
        people = at(*map(tuple, place[rng.random(lanes) < 0.8]))
        people.scores[rng.random(people.scores.shape) < 0.3] = 0.1
        yield people


def test_the_most_seen_are_those_that_a_look_at_everybody_finds() -> None:
    frames = list(passing(40, 6))
    everybody, few = link(frames), link(iter(frames), 5)
    seen = everybody.present.sum(axis=0)
    best = sorted(sorted(range(len(seen)), key=lambda place: (-seen[place], place))[:5])
    assert len(seen) > 30 and few.ids.tolist() == everybody.ids[best].tolist()
    assert few.keypoints.tobytes() == everybody.keypoints[:, best].tobytes()
    assert few.scores.tobytes() == everybody.scores[:, best].tobytes()
    # What is said of everybody does not change with who is given.
    body = everybody.scores[:, :, BODY]
    assert few.through == everybody.through == (everybody.present[0] & everybody.present[-1]).sum()
    assert few.body_score == everybody.body_score == body[body > FOUND].mean()


def test_memory_does_not_grow_with_everybody_who_ever_passed() -> None:
    """Some 450 people in 120 frames, 80 MB were all of them kept in all frames; 24 are about at once."""
    frames, lanes, most = 120, 24, 8
    link(passing(2, 2), most)  # scipy is imported
    tracemalloc.start()
    linked = link(passing(frames, lanes), most)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    given = linked.keypoints.nbytes + linked.scores.nbytes
    assert linked.keypoints.shape[:2] == (frames, most) and linked.ids.max() > 200
    assert peak < 2 * given + 2e6


def test_a_crowd_that_is_too_much_to_keep_is_refused() -> None:
    frames = [at((100, 100), (300, 100))] * 10
    assert len(link(frames, room=20).ids) == 2
    with pytest.raises(CandidateError, match="2 people in 10 frames are 20 skeletons; at most 19") as caught:
        link(frames, room=19)
    assert caught.value.reason is Reason.E_TOO_BIG
