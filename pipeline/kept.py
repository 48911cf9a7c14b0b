"""The samples that the stages kept: what planning needs to know of each, in memory; what packing needs, in the parts of their units.

Samples are numbered over the whole run, in plan order.
"""

import json
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.location import Location
from pipeline.parts import members_from_json, meta_of, open_part, parts_folder, reading
from pipeline.payload import Member
from pipeline.tar import padded
from schemas.verdict import Status


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept sample, as its shard is planned."""

    number: int
    sample_id: str
    source: str
    split: str | None
    payload_key: str
    bytes: int  # in a tar, without the members' headers


@dataclass(frozen=True)
class Packable:
    """A kept sample, ready to pack."""

    sample_id: str
    members: tuple[Member, ...]
    tar: str | None  # the part's tar, which holds the members made by us


@dataclass(frozen=True, slots=True)
class KeptOfUnit:
    """The kept samples of one unit, in its order. Columns [N]: as objects they would take ten times as much."""

    source: str
    part: str  # its file's name
    sample_ids: pa.StringArray
    splits: pa.StringArray
    payload_keys: pa.StringArray
    bytes: "array[int]"

    @classmethod
    def of(cls, source: str, part: str, rows: pa.Table) -> "KeptOfUnit":
        """rows: `kept_rows` with sample_id, split, payload_key and members."""
        sizes = (sum(padded(member["size"]) for member in json.loads(text)) for text in rows["members"].to_pylist())
        sample_ids, splits, payload_keys = (_one_array(rows[name]) for name in ("sample_id", "split", "payload_key"))
        return cls(source, part, sample_ids, splits, payload_keys, array("Q", sizes))

    def __len__(self) -> int:
        return len(self.bytes)

    def at(self, place: int, number: int) -> Kept:
        texts = (column[place].as_py() for column in (self.sample_ids, self.splits, self.payload_keys))
        sample_id, split, payload_key = texts
        return Kept(number, sample_id, self.source, split, payload_key, self.bytes[place])

    def numbered(self, first: int) -> Iterator[Kept]:
        columns = (column.to_pylist() for column in (self.sample_ids, self.splits, self.payload_keys))
        for place, (sample_id, split, payload_key) in enumerate(zip(*columns, strict=True)):
            yield Kept(first + place, sample_id, self.source, split, payload_key, self.bytes[place])


def _one_array(column: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


def kept_rows(part: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Of the samples that the stages kept, in the part's order."""
    rows = part.read(columns=[*columns, "status", "is_sample"], use_threads=False)
    return rows.filter(pc.and_(pc.equal(rows["status"], str(Status.KEPT)), rows["is_sample"])).select(list(columns))


class KeptSamples(Sequence[Kept]):
    """Of all units so far."""

    def __init__(self) -> None:
        self._units: list[KeptOfUnit] = []
        self.starts = array("Q", [0])  # number of each unit's first sample, and of the next unit's

    def add(self, unit: KeptOfUnit) -> Iterator[Kept]:
        self._units.append(unit)
        self.starts.append(self.starts[-1] + len(unit))
        return unit.numbered(self.starts[-2])

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[Kept]:
        for start, unit in zip(self.starts, self._units, strict=False):
            yield from unit.numbered(start)

    def __getitem__(self, number: int) -> Kept:  # type: ignore[override]  # no slices
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} kept samples, asked for {number}")
        unit = bisect_right(self.starts, number) - 1
        return self._units[unit].at(number - self.starts[unit], number)

    def to_pack(self, numbers: "array[int]", output: Location) -> "InParts":
        units = sorted({bisect_right(self.starts, number) - 1 for number in numbers})
        return InParts(output, tuple(self._units[unit].part for unit in units), array("Q", (self.starts[unit] for unit in units)), numbers)


@dataclass(frozen=True)
class InParts:
    """Samples as they lie in parts, in the order of `numbers`; each part is read once. Picklable, and small."""

    output: Location
    parts: tuple[str, ...]  # in plan order
    starts: "array[int]"  # number of the first sample of each
    numbers: "array[int]"

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Packable]:
        left = Counter(bisect_right(self.starts, number) - 1 for number in self.numbers)
        read: dict[int, list[Packable]] = {}
        for number in self.numbers:
            part = bisect_right(self.starts, number) - 1
            if part not in read:
                read[part] = self._read(self.parts[part])
            yield read[part][number - self.starts[part]]
            left[part] -= 1
            if not left[part]:
                del read[part]

    def _read(self, name: str) -> list[Packable]:
        path = parts_folder(self.output) / name
        part = open_part(path)
        with reading(path):
            tar = meta_of(part)["tar"]
            rows = kept_rows(part, ["sample_id", "members"]).to_pylist()
        return [Packable(row["sample_id"], tuple(members_from_json(row["members"])), tar) for row in rows]
