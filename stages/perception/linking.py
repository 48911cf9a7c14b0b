"""People linked across frames: who of one frame is who of another, by assignment.

FCVG links greedily, the nearest centroid first, and confuses hands where the numbers of people differ (specs/fcvg.md 1.3, 1.9). Here
all pairs are decided together, over the body points that both have, and whoever has no partner stays alone. The numbers are ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.verdict import CandidateError, Reason
from stages.perception.openpose import BODY, FOUND, POINTS
from stages.perception.results import People, Points

FARTHEST = 0.5  # of a person's size (the longer side of the body's box): the mean distance of points beyond which two are not one
MEMORY = 5  # frames looked at that somebody may be away and still be the same
_COMMON = 3  # body points that two must share for these to be compared; else their boxes' middles are
_SLACK = 1.001  # of FARTHEST: boxes farther apart than so are of two people, whatever rounding does

Scores = NDArray[np.float32]
Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinkedPeople:
    """People of F frames: keypoints [F,P,134,2], scores [F,P,134] (0 where absent or not found), ids [P] ascending: their numbers by
    first sight among everybody, of whom these may be but the most seen.

    through: how many of everybody are both in the first frame and in the last. body_score: the mean over everybody's body points that
    were found; None where none was.
    """

    keypoints: Points
    scores: Scores
    ids: NDArray[np.int64]
    through: int
    body_score: float | None

    @property
    def present(self) -> NDArray[np.bool_]:
        """[F,P]: who was found in which frame."""
        return np.asarray((self.scores > 0).any(2))


@dataclass(frozen=True, eq=False)
class _Sight:
    """Somebody in one frame."""

    number: int
    keypoints: Points
    scores: Scores


@dataclass(eq=False)
class _Person:
    """Where somebody was seen. frames: those of them in which any point was found; speed [2]: of the middle, in pixels a frame."""

    id: int
    sights: list[_Sight] = field(default_factory=list)
    frames: int = 0
    speed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    @property
    def last(self) -> _Sight:
        return self.sights[-1]

    def at(self, number: int) -> Points:
        return self.last.keypoints + (self.speed * (number - self.last.number)).astype(np.float32)

    def see(self, sight: _Sight) -> None:
        if self.sights:
            shift = _shift(self.last.keypoints, self.last.scores, sight.keypoints, sight.scores)
            self.speed = shift / (sight.number - self.last.number)
        self.sights.append(sight)
        self.frames += bool((sight.scores > 0).any())


def link(found: Iterable[People], most: int | None = None, room: int | None = None) -> LinkedPeople:
    """The people of frames that follow each other; as evenly spaced as may be, for people are expected to move on as they did.

    most: give no more than so many, those who are seen in most frames, the earlier ones of equals. `found` is taken one by one, and
    memory grows with frames times (people about at once + most), not with everybody who ever passed.
    room: frames times people that the result may have; more raises CandidateError(E_TOO_BIG).
    """
    crowd = _Crowd(most)
    for people in found:
        crowd.see(people)
    return crowd.linked(room)


class _Crowd:
    """Everybody who is about, and of those who went, the ones that may still be among the most seen."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._about: list[_Person] = []  # ids ascending, as in `_gone`
        self._gone: list[_Person] = []
        self._frames = self._everybody = 0
        self._first: frozenset[int] = frozenset()  # ids of who shows in the first frame ...
        self._last: frozenset[int] = frozenset()  # ... and in the last
        self._body: list[Scores] = []  # of body points found, frame by frame

    def see(self, people: People) -> None:
        number = self._frames
        self._gone = self._most_seen([*self._gone, *(each for each in self._about if number - each.last.number > MEMORY)])
        self._about = [each for each in self._about if number - each.last.number <= MEMORY]
        partners = _partners(self._about, people, number)
        seen = []
        for index, place in enumerate(partners):
            if place is None:
                self._about.append(_Person(self._everybody))
                self._everybody += 1
            person = self._about[-1 if place is None else place]
            # Copies: a view would keep the whole frame's people.
            person.see(_Sight(number, people.keypoints[index].copy(), people.scores[index].copy()))
            seen.append(person)
        seen.sort(key=lambda each: each.id)
        body = [each.last.scores[BODY] for each in seen]
        self._body += [scores[scores > FOUND] for scores in body]
        self._last = frozenset(each.id for each in seen if (each.last.scores > 0).any())
        self._first = self._last if number == 0 else self._first
        self._frames += 1

    def linked(self, room: int | None) -> LinkedPeople:
        kept = self._most_seen(self._gone + self._about)
        if room is not None and self._frames * len(kept) > room:
            many = f"{len(kept)} people in {self._frames} frames are {self._frames * len(kept)} skeletons"
            fix = "raise stride, or cut the source into shots or windows"
            raise CandidateError(Reason.E_TOO_BIG, f"{many}; at most {room} are kept of one item: {fix}")
        keypoints = np.zeros((self._frames, len(kept), POINTS, 2), np.float32)
        scores = np.zeros((self._frames, len(kept), POINTS), np.float32)
        for place, person in enumerate(kept):
            for sight in person.sights:
                keypoints[sight.number, place], scores[sight.number, place] = sight.keypoints, sight.scores
        body = np.concatenate(self._body) if self._body else np.zeros(0, np.float32)
        mean = float(body.mean()) if len(body) else None
        ids = np.array([each.id for each in kept], np.int64)
        return LinkedPeople(keypoints, scores, ids, len(self._first & self._last), mean)

    def _most_seen(self, persons: list[_Person]) -> list[_Person]:
        """Of persons whom nobody will see again, or at the end of all: the others cannot come to be among the most seen."""
        often = sorted(persons, key=lambda each: (-each.frames, each.id))[: self._most]
        return sorted(often, key=lambda each: each.id)


def _partners(about: Sequence[_Person], people: People, number: int) -> list[int | None]:
    """For each of the people the place of the one that it is, or None where it is somebody new."""
    from scipy.optimize import linear_sum_assignment

    expected = [person.at(number) for person in about]
    costs = np.full((len(about), len(people.keypoints)), FARTHEST)
    near = _may_be_one(_boxes(expected, [person.last.scores for person in about]), _boxes(list(people.keypoints), list(people.scores)))
    for row, column in zip(*np.nonzero(near), strict=True):
        gap = distance(expected[row], about[row].last.scores, people.keypoints[column], people.scores[column])
        costs[row, column] = min(gap, FARTHEST)
    rows, columns = linear_sum_assignment(costs)
    mine = {int(column): int(row) for row, column in zip(rows, columns, strict=True) if costs[row, column] < FARTHEST}
    return [mine.get(column) for column in range(len(people.keypoints))]


def _boxes(points: Sequence[Points], scores: Sequence[Scores]) -> Boxes:
    """[N,2,2]: see `_box`; NaN for whoever shows nothing."""
    boxes = (_box(*each) for each in zip(points, scores, strict=True))
    return np.array([np.full((2, 2), np.nan) if box is None else box for box in boxes], np.float64).reshape(-1, 2, 2)


def _may_be_one(first: Boxes, second: Boxes) -> NDArray[np.bool_]:
    """[N,M]: whose boxes are not so far apart that `distance` is FARTHEST at least: it spares a crowd from being compared pair by pair."""
    one, other = first[:, None], second[None]
    gap = np.maximum(np.maximum(one[..., 0, :] - other[..., 1, :], other[..., 0, :] - one[..., 1, :]), 0.0)
    sizes = [(each[..., 1, :] - each[..., 0, :]).max(-1) for each in (one, other)]
    farthest = FARTHEST * np.maximum(np.maximum(*sizes), 1.0)
    return np.asarray(np.linalg.norm(gap, axis=-1) <= _SLACK * farthest)  # of NaN nothing is


def distance(first: Points, first_scores: Scores, second: Points, second_scores: Scores) -> float:
    """How far two bodies [134,2] are apart, as a share of their size: 0 for the same, infinite where one of them shows nothing."""
    sizes = [_box(points, scores) for points, scores in ((first, first_scores), (second, second_scores))]
    if any(box is None for box in sizes):
        return float("inf")
    size = max(float((box[1] - box[0]).max()) for box in sizes if box is not None)
    shared = (first_scores[BODY] > FOUND) & (second_scores[BODY] > FOUND)
    if shared.sum() >= _COMMON:
        gap = float(np.linalg.norm(first[BODY][shared] - second[BODY][shared], axis=1).mean())
    else:
        gap = float(np.linalg.norm(_shift(first, first_scores, second, second_scores)))
    return gap / max(size, 1.0)


def _shift(first: Points, first_scores: Scores, second: Points, second_scores: Scores) -> NDArray[np.float64]:
    """[2] from one body to another: the mean over shared points, else from box to box."""
    shared = (first_scores[BODY] > FOUND) & (second_scores[BODY] > FOUND)
    if shared.sum() >= _COMMON:
        return np.asarray((second[BODY][shared] - first[BODY][shared]).mean(0), np.float64)
    before, after = _box(first, first_scores), _box(second, second_scores)
    return np.zeros(2) if before is None or after is None else after.mean(0) - before.mean(0)


def _box(points: Points, scores: Scores) -> Boxes | None:
    """[2,2]: the least and the largest x and y of the body's points that were found, or else of any; None where none was."""
    for chosen in (points[BODY][scores[BODY] > FOUND], points[scores > 0]):
        if len(chosen):
            return np.stack([chosen.min(0), chosen.max(0)]).astype(np.float64)
    return None
