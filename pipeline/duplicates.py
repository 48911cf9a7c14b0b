"""Twins within a run: which samples show what an earlier one shows already.

Units cannot know each other, so they only take fingerprints (`stages.fingerprint`); here they are compared, in plan order, by a search
that is exact: it finds the pairs that comparing all with all would find.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.binding import Source
from schemas.verdict import Reason
from stages.fingerprint import Fingerprint, FingerprintConfig

Hashes = NDArray[np.uint64]

_BATCH = 256  # samples compared at once
_PROBES = 1 << 20  # slots looked into at once
_MOST_ERRORS = 3  # bits that may be wrong in a band that is looked for
_LEAST_WIDTH = 10  # bits of a band: the tables begin with 2 to the power of it, and grow with what they hold


@dataclass(frozen=True)
class Printed:
    """A sample with its fingerprint. family: its parent's id, or its own: a source's children were chosen by its sampler."""

    sample_id: str
    family: str
    content: str
    views: int
    hashes: tuple[int, ...] | None  # None where the pictures hold too little to compare

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Printed":
        """From a row of a part: sample_id, parent_id, fingerprint."""
        found = row["fingerprint"]
        hashes = None if found["hashes"] is None else tuple(found["hashes"])
        return cls(row["sample_id"], row["parent_id"] or row["sample_id"], found["content"], found["views"], hashes)


@dataclass(frozen=True)
class Twin:
    """Why a sample is turned away. distance: bits that differ, on average over the frames; 0 for the same bytes."""

    of: str  # the sample that is kept
    reason: Reason
    distance: float

    def notes(self) -> dict[str, str]:
        return {"duplicate_of": self.of, "duplicate_distance": f"{self.distance:g}"}


def settings_of(source: Source) -> FingerprintConfig | None:
    """What the source's recipe says of twins; None where it does not look for them."""
    return next((stage.config for stage in source.stages if isinstance(stage, Fingerprint)), None)


class Duplicates:
    """The samples that are kept so far, and whether the next ones are twins of one of them.

    A sample is compared with those of all sources, by the limits of its own. With several twins the nearest is named, of equally near
    ones the first. Samples of one family are no twins. What is decided depends only on the order in which samples come.
    """

    def __init__(self, settings: Mapping[str, FingerprintConfig | None]) -> None:
        self._settings = {name: each for name, each in settings.items() if each is not None}
        self._most = max((each.max_distance for each in self._settings.values() if each.max_distance is not None), default=None)
        self._kept: list[tuple[str, str]] = []  # sample_id, family
        self._contents: dict[str, int] = {}  # to the first sample made of it
        self._groups: dict[tuple[int, int], tuple[HammingIndex, list[int]]] = {}  # by views and hashes: the index, and whose they are

    def judge(self, source: str, samples: Sequence[Printed], keep: bool = True) -> list[Twin | None]:
        """For each its twin, or None: then it is kept, and others are compared with it, those further on in `samples` as well.

        keep False: none of them is kept, so they are not compared with each other.
        """
        found: list[Twin | None] = []
        for start in range(0, len(samples), _BATCH):
            found += self._judge(self._settings[source], samples[start : start + _BATCH], keep)
        return found

    def _judge(self, settings: FingerprintConfig, samples: Sequence[Printed], keep: bool) -> list[Twin | None]:
        earlier, between = self._compared(settings, samples)
        twins: list[Twin | None] = []
        numbers: dict[int, int] = {}  # of those of this batch that are kept, by their place in it
        for place, sample in enumerate(samples):
            near = earlier[place] + [(numbers[other], bits) for other, bits in between[place] if other in numbers]
            twin = self._twin(settings, sample, near)
            twins.append(twin)
            if twin is None and keep:
                numbers[place] = len(self._kept)
                self._contents.setdefault(sample.content, len(self._kept))
                self._kept.append((sample.sample_id, sample.family))
        self._remember(samples, numbers)
        return twins

    def _twin(self, settings: FingerprintConfig, sample: Printed, near: Sequence[tuple[int, int]]) -> Twin | None:
        """near: numbers of kept samples, and in how many bits they differ."""
        same = self._contents.get(sample.content)
        if settings.exact and same is not None and self._kept[same][1] != sample.family:
            return Twin(self._kept[same][0], Reason.DUPLICATE, 0.0)
        others = [(bits, number) for number, bits in near if self._kept[number][1] != sample.family]
        if not others:
            return None
        bits, number = min(others)
        return Twin(self._kept[number][0], Reason.NEAR_DUPLICATE, bits / len(sample.hashes or (0,)))

    def _compared(self, settings: FingerprintConfig, samples: Sequence[Printed]) -> tuple[list[list[tuple[int, int]]], ...]:
        """For each sample the near ones: kept ones by number, and those before it in `samples` by place, each with the bits that differ."""
        earlier: list[list[tuple[int, int]]] = [[] for _ in samples]
        between: list[list[tuple[int, int]]] = [[] for _ in samples]
        if settings.max_distance is None:
            return earlier, between
        for group, places in _grouped(samples).items():
            index, owners = self._group(group)
            hashes = _matrix(samples, places)
            radius = _radius(settings.max_distance, group[1])
            for query, item, bits in zip(*(each.tolist() for each in index.near(hashes)), strict=True):
                if bits <= radius:
                    earlier[places[query]].append((owners[item], bits))
            apart = _apart(hashes.T[:, :, None], hashes.T[:, None])
            for later, first in zip(*(each.tolist() for each in np.nonzero(np.tril(apart <= radius, -1))), strict=True):
                between[places[later]].append((places[first], int(apart[later, first])))
        return earlier, between

    def _remember(self, samples: Sequence[Printed], numbers: Mapping[int, int]) -> None:
        if self._most is None:
            return
        for group, places in _grouped(samples).items():
            kept = [place for place in places if place in numbers]
            if not kept:
                continue
            index, owners = self._group(group)
            index.add(_matrix(samples, kept))
            owners += [numbers[place] for place in kept]

    def _group(self, group: tuple[int, int]) -> tuple["HammingIndex", list[int]]:
        if group not in self._groups:
            self._groups[group] = HammingIndex(group[1], _radius(self._most or 0.0, group[1])), []
        return self._groups[group]


def _grouped(samples: Sequence[Printed]) -> dict[tuple[int, int], list[int]]:
    """Places of the samples that compare with each other, by views and hashes."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, sample in enumerate(samples):
        if sample.hashes is not None:
            groups.setdefault((sample.views, len(sample.hashes)), []).append(place)
    return groups


def _matrix(samples: Sequence[Printed], places: Sequence[int]) -> Hashes:
    """[N,F]"""
    return np.array([samples[place].hashes for place in places], np.uint64).reshape(len(places), -1)


def _radius(max_distance: float, hashes: int) -> int:
    """Most bits that may differ over all hashes. The mean is compared, so 8 hashes and 4.1 bits make 32."""
    return int(max_distance * hashes + 1e-9)


def _apart(a: Hashes, b: Hashes) -> NDArray[np.int64]:
    """Bits that differ over the first axis."""
    return np.asarray(np.bitwise_count(a ^ b).sum(axis=0, dtype=np.int64))


class HammingIndex:
    """Fingerprints [F] of 64 bits each, and those among them that differ from another in no more than `radius` of all 64 F bits.

    The bits are dealt out to m bands. Two fingerprints that differ in no more than `radius` bits differ in some band by no more than
    radius // m (pigeonhole: Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", 2012). So each band
    has a table of what it holds, and a search looks into each at its own value and at those that differ from it in so few bits. A band
    takes its bits from all F hashes: fingerprints often share a frame, a black first one say, and seldom a little of every frame.
    Tables double with what they hold, and with them the bands' width, so that a slot holds about one fingerprint. What is found there is
    nearly always far off, which the first few words tell: those that differ in more than `radius` bits of them are looked at no further.
    """

    def __init__(self, hashes: int, radius: int) -> None:
        self.radius = radius
        self._bits = 64 * hashes
        self._count = 0
        self._stored: Hashes = np.zeros((hashes, 0), np.uint64)  # [F,capacity]: words, not hashes
        self._telling = _telling(hashes, radius)
        self._arrange(_LEAST_WIDTH)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._stored.nbytes + self._head.nbytes + self._next.nbytes

    def add(self, hashes: Hashes) -> None:
        """hashes [N,F]: numbered on from the last."""
        start, self._count = self._count, self._count + len(hashes)
        if self._count > self._stored.shape[1]:
            grown = np.zeros((len(self._stored), max(2 * self._stored.shape[1], self._count, 1024)), np.uint64)
            grown[:, :start] = self._stored[:, :start]
            self._stored = grown
        self._stored[:, start : self._count] = _dealt(hashes)
        if self._count > 1 << self._width:
            self._arrange((self._count - 1).bit_length() + 1)
        else:
            self._link(start)

    def near(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """hashes [N,F]. Returns pairs: position in `hashes` [P], number of the stored one [P], bits that differ [P]; sorted."""
        step = max(1, _PROBES // (self._bands * len(self._masks)))
        words = _dealt(hashes)
        found = [self._near(words[:, start : start + step], start) for start in range(0, len(hashes) if self._count else 0, step)]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        query, item, bits = (np.concatenate(each) for each in zip(*found, strict=True))
        return query, item, bits

    def _near(self, words: Hashes, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        slots = self._slots(words)[..., None] ^ self._masks  # [n,m,P]; masks lie below the band's own bits
        item, heirs = self._head.reshape(-1)[slots.reshape(-1)], self._next.reshape(-1)
        probe = np.arange(slots.size)
        pairs = [np.zeros(0, np.int64)]
        while len(there := np.flatnonzero(item)):  # a slot's fingerprints hang on each other; 0 is the end
            probe, item = probe[there], item[there]
            owner, number = probe // (self._bands * len(self._masks)), item - 1
            bits = np.zeros(len(item), np.uint16)
            for word in range(self._telling):
                bits += np.bitwise_count(self._stored[word][number] ^ words[word][owner])
            maybe = np.flatnonzero(bits <= self.radius)
            pairs.append(owner[maybe] * self._count + number[maybe])
            item = heirs[probe // len(self._masks) % self._bands * self._next.shape[1] + number]
        pair = np.unique(np.concatenate(pairs))
        owner, number = pair // self._count, pair % self._count
        apart = _apart(self._stored[:, number], words[:, owner])
        near = apart <= self.radius
        return owner[near] + first, number[near], apart[near]

    def _arrange(self, width: int) -> None:
        """Make the tables for up to 2 to the power of `width` fingerprints: the number of bands that costs least, and all links."""
        errors = min(range(_MOST_ERRORS + 1), key=lambda errors: self._cost(errors, width))
        self._bands = min(self.radius // (errors + 1) + 1, self._bits)
        used = min(width, self._bits // self._bands)
        self._width, self._used = width, used
        values = np.arange(1 << used, dtype=np.int64)
        errors = max(errors, self.radius // self._bands)  # more where there are not enough bits for so many bands
        self._masks = values[np.bitwise_count(values) <= errors]
        self._head = np.zeros((self._bands, 1 << used), np.int32)
        self._next = np.zeros((self._bands, 0), np.int32)
        self._link(0)

    def _cost(self, errors: int, width: int) -> float:
        """Of a search, in slots and fingerprints looked at."""
        bands = min(self.radius // (errors + 1) + 1, self._bits)
        used = min(width, self._bits // bands)
        return bands * sum(comb(used, wrong) for wrong in range(errors + 1)) * (1.0 + 2.0 ** (width - used))

    def _link(self, start: int) -> None:
        """Hang the fingerprints from `start` on into their slots."""
        if self._next.shape[1] < self._stored.shape[1]:
            grown = np.zeros((self._bands, self._stored.shape[1]), np.int32)
            grown[:, : self._next.shape[1]] = self._next
            self._next = grown
        heads = self._head.reshape(-1)
        for some in range(start, self._count, _BATCH):
            numbers = np.arange(some, min(some + _BATCH, self._count))
            slots = self._slots(self._stored[:, numbers])  # [n,m]
            for number, own in zip(numbers.tolist(), slots, strict=True):
                self._next[:, number] = heads[own]
                heads[own] = number + 1

    def _slots(self, words: Hashes) -> NDArray[np.int64]:
        """words [F,N] -> [N,m]: where in the tables, laid end to end, each band's value lies."""
        bits = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1)
        each = self._bits // self._bands
        bands = bits[:, : each * self._bands].reshape(len(bits), self._bands, each)[:, :, : self._used]
        return bands @ (1 << np.arange(self._used, dtype=np.int64)) + (np.arange(self._bands, dtype=np.int64) << self._used)


def _telling(words: int, radius: int) -> int:
    """In how many words two that are unlike differ in more than `radius` bits: 32 of each, give or take four times sqrt(64) / 2."""
    return next((count for count in range(1, words) if 32 * count - 16 * count**0.5 >= radius), words)


def _dealt(hashes: Hashes) -> Hashes:
    """hashes [N,F] -> words [F,N] of the same bits, as many from each hash, and from other places of each: so a word of footage that
    stands still tells as much as a hash."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), -1, 8), axis=2)  # [N,F,64]
    frames = bits.shape[1]
    dealt = np.stack([np.roll(bits[:, i], 64 * i // frames, axis=1) for i in range(frames)], axis=2).reshape(len(hashes), -1)
    return np.ascontiguousarray(np.packbits(dealt, axis=1).view(np.uint64).T)
