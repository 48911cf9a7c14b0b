"""People linked across frames: who of one frame is who of another, by assignment.

FCVG links greedily, the nearest centroid first, and confuses hands where the numbers of people differ (specs/fcvg.md 1.3, 1.9). Here
all pairs are decided together, over the body points that both have, and whoever has no partner stays alone. The numbers are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.perception.openpose import BODY, FOUND, POINTS
from stages.perception.results import People, Points

FARTHEST = 0.5  # of a person's size (the longer side of the body's box): the mean distance of points beyond which two are not one
MEMORY = 5  # frames looked at that somebody may be away and still be the same
_COMMON = 3  # body points that two must share for these to be compared; else their boxes' middles are


@dataclass(frozen=True, eq=False)
class LinkedPeople:
    """Everybody of F frames: keypoints [F,P,134,2], scores [F,P,134] (0 where absent or not found), ids [P]: 0, 1, ... by first sight."""

    keypoints: Points
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]

    @property
    def present(self) -> NDArray[np.bool_]:
        """[F,P]: who was found in which frame."""
        return np.asarray((self.scores > 0).any(2))


@dataclass(eq=False)
class _Person:
    """Somebody as last seen, in frame number `seen`; speed [2]: of the middle, in pixels a frame."""

    keypoints: Points
    scores: NDArray[np.float32]
    seen: int
    speed: NDArray[np.float64]

    def at(self, number: int) -> Points:
        return self.keypoints + (self.speed * (number - self.seen)).astype(np.float32)


def link(found: Sequence[People]) -> LinkedPeople:
    """The people of frames that follow each other; as evenly spaced as may be, for people are expected to move on as they did."""
    known: list[_Person] = []
    seats: list[list[int]] = []
    for number, people in enumerate(found):
        places = _places(known, people, number)
        for index, place in enumerate(places):
            keypoints, scores = people.keypoints[index], people.scores[index]
            if place == len(known):
                known.append(_Person(keypoints, scores, number, np.zeros(2)))
                continue
            person = known[place]
            speed = _shift(person.keypoints, person.scores, keypoints, scores) / (number - person.seen)
            known[place] = _Person(keypoints, scores, number, speed)
        seats.append(places)
    keypoints = np.zeros((len(found), len(known), POINTS, 2), np.float32)
    scores = np.zeros((len(found), len(known), POINTS), np.float32)
    for number, (people, places) in enumerate(zip(found, seats, strict=True)):
        keypoints[number, places], scores[number, places] = people.keypoints, people.scores
    return LinkedPeople(keypoints, scores, np.arange(len(known)))


def _places(known: Sequence[_Person], people: People, number: int) -> list[int]:
    """For each of the people the one known that it is, or the next new one."""
    from scipy.optimize import linear_sum_assignment

    there = [place for place, person in enumerate(known) if number - person.seen <= MEMORY]
    costs = np.full((len(there), len(people.keypoints)), FARTHEST)
    for row, place in enumerate(there):
        for column in range(len(people.keypoints)):
            gap = distance(known[place].at(number), known[place].scores, people.keypoints[column], people.scores[column])
            costs[row, column] = min(gap, FARTHEST)
    rows, columns = linear_sum_assignment(costs)
    mine = {int(column): there[row] for row, column in zip(rows, columns, strict=True) if costs[row, column] < FARTHEST}
    places, new = [], len(known)
    for column in range(len(people.keypoints)):
        places.append(mine.get(column, new))
        new += column not in mine
    return places


def distance(first: Points, first_scores: NDArray[np.float32], second: Points, second_scores: NDArray[np.float32]) -> float:
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


def _shift(first: Points, first_scores: NDArray[np.float32], second: Points, second_scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """[2] from one body to another: the mean over shared points, else from box to box."""
    shared = (first_scores[BODY] > FOUND) & (second_scores[BODY] > FOUND)
    if shared.sum() >= _COMMON:
        return np.asarray((second[BODY][shared] - first[BODY][shared]).mean(0), np.float64)
    before, after = _box(first, first_scores), _box(second, second_scores)
    return np.zeros(2) if before is None or after is None else after.mean(0) - before.mean(0)


def _box(points: Points, scores: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """[2,2]: the least and the largest x and y of the body's points that were found, or else of any; None where none was."""
    for chosen in (points[BODY][scores[BODY] > FOUND], points[scores > 0]):
        if len(chosen):
            return np.stack([chosen.min(0), chosen.max(0)]).astype(np.float64)
    return None
