"""What discovery found, on this machine's disk: candidates with all their files are kilobytes each, and the driver has millions of them.

In memory stay their ids until units are formed of them, and the place of every block of them in the file.
"""

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

from schemas.candidate import Candidate

_BLOCK = 64  # candidates that are written, and read back, at once


class Found(Sequence[Candidate]):
    """A source's candidates in their fixed order, each with an id of its own, in an unnamed file (TMPDIR) that ends with the process."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}  # by id; emptied by `forget_ids`
        self._count = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._ends = array("Q", [0])  # of the blocks that are written
        self._last: list[Candidate] = []  # not written yet
        self._read: tuple[int, Sequence[Candidate]] = (-1, ())  # the block that was read last: they are asked for in their order

    def add(self, candidate: Candidate) -> None:
        candidate.identity()  # written with it, so that no worker computes it again
        self.places[candidate.candidate_id] = self._count
        self._count += 1
        self._last.append(candidate)
        if len(self._last) == _BLOCK:
            self._file.write(pickle.dumps(self._last, pickle.HIGHEST_PROTOCOL))
            self._file.flush()
            self._ends.append(self._file.tell())
            self._last = []

    def forget_ids(self) -> None:
        self.places = {}

    def chosen(self, ids: Iterable[str]) -> "Chosen":
        """Those of these ids that were found, in the order of the ids."""
        return Chosen(self, array("Q", [place for name in ids if (place := self.places.get(name)) is not None]))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> "Chosen": ...
    def __getitem__(self, place: int | slice) -> "Candidate | Chosen":
        if isinstance(place, slice):
            return Chosen(self, array("Q", range(self._count)[place]))
        block, within = divmod(range(self._count)[place], _BLOCK)
        return self._block(block)[within]

    def _block(self, block: int) -> Sequence[Candidate]:
        if block == len(self._ends) - 1:
            return self._last
        number, candidates = self._read
        if number != block:
            start, stop = self._ends[block], self._ends[block + 1]
            candidates = pickle.loads(os.pread(self._file.fileno(), stop - start, start))
            self._read = block, candidates
        return candidates


class Chosen(Sequence[Candidate]):
    """Some of what was found, read when asked for. It pickles as a tuple of them: that is what a worker gets."""

    def __init__(self, found: Found, places: "array[int]") -> None:
        self._found, self._places = found, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> "Chosen": ...
    def __getitem__(self, place: int | slice) -> "Candidate | Chosen":
        if isinstance(place, slice):
            return Chosen(self._found, self._places[place])
        return self._found[self._places[place]]

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)
