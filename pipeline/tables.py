"""The manifest: the units' parts compacted into the tables `samples`, `shards` and `units`.

Each Parquet file is replaced whole and holds whole units, so a reader finds one row for every candidate at any moment,
also while a run that changed a limit is replacing them.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa

from pipeline.binding import Source
from pipeline.duplicates import Duplicates, Printed, Twin, settings_of
from pipeline.kept import Kept, KeptOfUnit, KeptSamples, kept_rows
from pipeline.location import Location, together
from pipeline.parts import meta_of, open_part, part_path, reading
from pipeline.shards import Record, Shard, read_record
from pipeline.store import names, remove, write_row_groups
from pipeline.unit import Unit
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.verdict import Reason, Status

_PACKED = ["sample_id", "split", "payload_key", "members"]
_PRINTED = ["parent_id", "fingerprint"]
_DECIDED = ("status", "reasons", "notes", "shard", "content_sha256")
_UNITS_PER_FILE = 64
_SHARDS_PER_FILE = 256
_SAMPLES_PER_GROUP = 4096  # of the `shards` table, which lists their members: a row group is made in memory


@dataclass
class Totals:
    """Counts over the final rows, for run.json and the closing lines."""

    # By source. counts: samples, and sources that came to nothing, by status.
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    text: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # of kept samples: with | without
    judged: int = 0  # samples, and sources that came to nothing
    errors: int = 0  # of these
    shard_bytes: int = 0


def unit_part(unit: Unit) -> Location:
    return part_path(unit.output, unit.name, unit.key)


@dataclass(frozen=True)
class Overruled:
    """Why the run as a whole turns away a sample that its stages kept."""

    reason: Reason
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ranked:
    """A sample of a source that keeps its best only. rank: smaller is better."""

    rank: float
    sample_id: str
    printed: Printed | None


# A kept sample's id, its rank (smaller is better), and its fingerprint where its source looks for twins.
_Asked = tuple[str, float, Printed | None]


class Harvest:
    """What finished units have to pack, gathered in plan order, and what the run as a whole turns away.

    Of twins the first in plan order is kept, which is decided on the way. Sources that keep their best only come after all others, the
    best of their samples first: so the twin that is named is always one that is kept.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.units = 0  # how many were taken
        self.kept = KeptSamples()  # of these
        self.tars: set[str] = set()  # of the units, by name
        self.unread: set[str] = set()  # names of parts whose candidates storage failed in part
        self._sources = sources
        self._overruled: dict[str, Overruled] = {}
        self._ranked: defaultdict[str, list[_Ranked]] = defaultdict(list)
        self._printed = {name: settings_of(source) for name, source in sources.items()}
        self._duplicates = Duplicates(self._printed)

    def take(self, units: Sequence[Unit]) -> Iterator[Kept]:
        """Samples of the units that are certain to be packed: none of a ranked source. Give each unit once, in plan order."""
        for batch in _batched(units, _UNITS_PER_FILE):
            for unit, (found, asked, tar, unread) in zip(batch, together(self._read, batch, batch[0].output), strict=True):
                self.units += 1
                self.tars |= {tar} if tar else set()
                self.unread |= {found.part} if unread else set()
                certain = self.offer(unit.source.name, asked)
                yield from (sample for sample in self.kept.add(found) if certain and sample.sample_id not in self._overruled)
            pa.default_memory_pool().release_unused()  # Arrow keeps what parts have needed

    def _read(self, unit: Unit) -> tuple[KeptOfUnit, list[_Asked], str | None, bool]:
        """What its stages kept, what is to be asked of it, the name of its tar, and whether storage failed for a candidate."""
        source = unit.source.name
        best_by, looks_for_twins = unit.source.spec.best_by, self._printed[source] is not None
        path = unit_part(unit)
        part = open_part(path)
        asked_by = [*(["scores"] if best_by else []), *(_PRINTED if looks_for_twins else [])]
        with reading(path):
            meta, rows = meta_of(part), kept_rows(part, [*_PACKED, *asked_by])
        asked = [
            (row["sample_id"], _rank(row["scores"], best_by) if best_by else 0.0, Printed.of(row) if looks_for_twins else None)
            for row in (rows.select(["sample_id", *asked_by]).to_pylist() if asked_by else ())
        ]
        return KeptOfUnit.of(source, path.name, rows), asked, meta["tar"], meta.get("unread", False)

    def offer(self, source: str, samples: Sequence[_Asked]) -> bool:
        """Take in samples of one source that its stages kept, all of a run in plan order; of a source that neither ranks nor looks for
        twins there is nothing to say. Returns whether what is not turned away by now is certain to be packed."""
        if self._sources[source].spec.best_by is not None:
            self._ranked[source] += [_Ranked(rank, sample_id, printed) for sample_id, rank, printed in samples]
            return False
        self._turn_away(source, [printed for _, _, printed in samples])
        return True

    def settle(self) -> dict[str, Overruled]:
        """Once all units are taken: what is turned away, by sample id."""
        for name in self._sources:
            target, ranked = self._sources[name].spec.target_count, sorted(self._ranked[name], key=lambda each: (each.rank, each.sample_id))
            while ranked and target:
                best, ranked = ranked[:target], ranked[target:]
                target -= len(best) - self._turn_away(name, [each.printed for each in best])
            self._turn_away(name, [each.printed for each in ranked], keep=False)
            for each in ranked:
                self._overruled.setdefault(each.sample_id, Overruled(Reason.OVER_TARGET_COUNT))
        return self._overruled

    def _turn_away(self, source: str, samples: Sequence[Printed | None], keep: bool = True) -> int:
        """Look for twins among samples that may be kept. Returns how many were found."""
        printed = [sample for sample in samples if sample is not None]
        twins: list[Twin | None] = self._duplicates.judge(source, printed, keep) if printed else []
        found = {sample.sample_id: twin for sample, twin in zip(printed, twins, strict=True) if twin is not None}
        self._overruled |= {sample_id: Overruled(twin.reason, twin.notes()) for sample_id, twin in found.items()}
        return len(found)


def _rank(scores: Mapping[str, float | None], best_by: str) -> float:
    """Smaller is better. A sample without the score comes last."""
    value = scores[best_by.removeprefix("-")]
    if value is None or value != value:
        return float("inf")
    return value if best_by.startswith("-") else -value


class _Placed:
    """In which shard each kept sample lies, and its content_sha256: 36 bytes each, by the sample's number."""

    def __init__(self, samples: int) -> None:
        self._shards: list[str] = []
        self._shard_of = array("i", [-1]) * samples
        self._content = bytearray(32 * samples)

    def take(self, shard: Shard, record: Record) -> None:
        for place, number in enumerate(shard.samples.numbers):
            self._shard_of[number] = len(self._shards)
            self._content[32 * number : 32 * number + 32] = record.content[32 * place : 32 * place + 32]
        self._shards.append(shard.name)

    def of(self, number: int) -> tuple[str | None, str | None]:
        shard = self._shard_of[number]
        return (None, None) if shard < 0 else (self._shards[shard], self._content[32 * number : 32 * number + 32].hex())


def write_tables(
    output: Location, units: Sequence[Unit], shards: Sequence[Shard], kept: KeptSamples, overruled: Mapping[str, Overruled]
) -> Totals:
    """Write the three tables and remove files of an earlier, larger run.

    shards: all, packed, in plan order. overruled: what the run as a whole turns away of what is kept, by sample id.
    """
    totals, placed = Totals(), _Placed(len(kept))
    manifest = output / "manifest"

    def shard_rows(group: Sequence[Shard]) -> pa.Table:
        records = together(read_record, group, output)
        for shard, record in zip(group, records, strict=True):
            placed.take(shard, record)
            totals.shard_bytes += record.row["bytes"]
        return _shard_table(records)

    _write_files(manifest / "shards", SHARDS, (map(shard_rows, _groups(each)) for each in _batched(shards, _SHARDS_PER_FILE)))
    unit_tables: list[pa.Table] = []
    starts = iter(kept.starts)

    def sample_rows(units: Sequence[Unit]) -> pa.Table:
        parts = together(_rows_of, units, output)
        unit_tables.append(pa.Table.from_pylist([row for _, row in parts], schema=UNITS))
        decided = [_decided(rows, next(starts), placed, overruled, totals) for rows, _ in parts]
        pa.default_memory_pool().release_unused()
        return _with_columns(pa.concat_tables([rows for rows, _ in parts]), decided)

    _write_files(manifest / "samples", SAMPLES, (map(sample_rows, (each,)) for each in _batched(units, _UNITS_PER_FILE)))
    _write_files(manifest / "units", UNITS, ((table,) for table in unit_tables))
    return totals


def _groups(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Shards of so many samples together; one at least."""
    group, samples = [shards[0]], len(shards[0].samples)
    for shard in shards[1:]:
        samples += len(shard.samples)
        if samples > _SAMPLES_PER_GROUP:
            yield group
            group, samples = [], len(shard.samples)
        group.append(shard)
    yield group


def _shard_table(records: Sequence[Record]) -> pa.Table:
    names = [name for name in SHARDS.names if name != "members"]
    columns = [pa.array([record.row[name] for record in records], SHARDS.field(name).type) for name in names]
    ends = pa.array(accumulate((len(record.members) for record in records), initial=0), pa.int32())
    lists = [record.members for record in records]
    members = pa.ListArray.from_arrays(ends, pa.concat_arrays(lists) if len(lists) > 1 else lists[0], SHARDS.field("members").type)
    return pa.Table.from_arrays([*columns, members], schema=SHARDS)


def _rows_of(unit: Unit) -> tuple[pa.Table, dict[str, Any]]:
    """Its samples' rows and its own. Its part is opened once for both: from an object store that is a request."""
    path = unit_part(unit)
    part = open_part(path)
    with reading(path):
        row = meta_of(part)["units_row"]
        return part.read(columns=SAMPLES.names, use_threads=False), {**row, "seconds": list(row["seconds"].items())}


def _decided(table: pa.Table, first: int, placed: _Placed, overruled: Mapping[str, Overruled], totals: Totals) -> list[pa.Array]:
    """Columns of a unit's rows that only the whole run knows: twins, ranking, shards. first: number of its first kept sample."""
    number = first
    decided = table.select(["sample_id", "source", "status", "reasons", "is_source", "is_sample", "has_text", "notes"]).to_pylist()
    for row in decided:
        row["shard"], row["content_sha256"] = None, None
        if row["is_sample"] and row["status"] == Status.KEPT:
            row["shard"], row["content_sha256"] = placed.of(number)
            number += 1
        if (why := overruled.get(row["sample_id"])) is not None:
            row["status"], row["reasons"] = str(Status.REJECTED), [*row["reasons"], str(why.reason)]
            row["notes"] = sorted({**dict(row["notes"] or ()), **why.notes}.items()) or None
        _count(totals, row)
    return [pa.array([row[name] for row in decided], SAMPLES.field(name).type) for name in _DECIDED]


def _with_columns(table: pa.Table, decided: Sequence[Sequence[pa.Array]]) -> pa.Table:
    """The units' rows with what `_decided` says of each unit's."""
    for name, arrays in zip(_DECIDED, zip(*decided, strict=True), strict=True):
        table = table.set_column(SAMPLES.get_field_index(name), SAMPLES.field(name), pa.concat_arrays(arrays))
    return table.replace_schema_metadata(SAMPLES.metadata)


def _count(totals: Totals, row: Mapping[str, Any]) -> None:
    source, status = row["source"], row["status"]
    if row["is_sample"] or status != Status.KEPT:
        totals.judged += 1
        totals.errors += status == Status.ERROR
        totals.counts[source][status] += 1
        totals.reasons[source].update(row["reasons"])
    if row["is_sample"] and status == Status.KEPT:
        totals.text[source]["with" if row["has_text"] else "without"] += 1


def _write_files(folder: Location, schema: pa.Schema, files: Iterable[Iterable[pa.Table]]) -> None:
    """part-00000.parquet and so on, of the row groups of each; at least one file, so that an empty table can be read too."""
    number = 0
    for number, groups in enumerate(files, 1):
        write_row_groups(folder / f"part-{number - 1:05d}.parquet", schema, groups)
    if number == 0:
        write_row_groups(folder / "part-00000.parquet", schema, (schema.empty_table(),))
        number = 1
    for name in [each for each in names(folder, ".parquet") if each.startswith("part-")][number:]:
        remove(folder / name)


def _batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
