"""The manifest: the units' parts compacted into the tables `samples`, `shards` and `units`.

Each Parquet file is replaced whole and holds whole units, so a reader finds one row for every candidate at any moment,
also while a run that changed a limit is replacing them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.binding import Source
from pipeline.duplicates import Duplicates, Printed, Twin, settings_of
from pipeline.parts import members_from_json, meta_of, open_part, part_path
from pipeline.shards import Kept, content_digests
from pipeline.store import Location, names, remove, together, write_table
from pipeline.unit import Unit
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.verdict import Reason, Status

_PACKED = ["sample_id", "split", "status", "is_sample", "payload_key", "members"]
_PRINTED = ["parent_id", "fingerprint"]
_UNITS_PER_FILE = 64
_SHARDS_PER_FILE = 256


@dataclass
class Totals:
    """Counts over the final rows, for run.json and the closing lines."""

    # By source. counts: samples, and sources that came to nothing, by status.
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    text: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # of kept samples: with | without
    judged: int = 0  # samples, and sources that came to nothing
    errors: int = 0  # of these


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


class Harvest:
    """What finished units have to pack, gathered in plan order, and what the run as a whole turns away.

    Of twins the first in plan order is kept, which is decided on the way. Sources that keep their best only come after all others, the
    best of their samples first: so the twin that is named is always one that is kept.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.units = 0  # how many were taken
        self.tars: set[str] = set()  # of the units, by name
        self._sources = sources
        self._kept: list[Kept] = []
        self._overruled: dict[str, Overruled] = {}
        self._ranked: defaultdict[str, list[_Ranked]] = defaultdict(list)
        self._printed = {name: settings_of(source) for name, source in sources.items()}
        self._duplicates = Duplicates(self._printed)

    def take(self, units: Sequence[Unit]) -> Iterator[Kept]:
        """Samples of the units that are certain to be packed: none of a ranked source. Give each unit once, in plan order."""
        for batch in _batched(units, _UNITS_PER_FILE):
            for unit, (found, tar) in zip(batch, together(self._read, batch, batch[0].output), strict=True):
                self.units += 1
                self.tars |= {tar} if tar else set()
                yield from self.offer(unit.source.name, found)

    def _read(self, unit: Unit) -> tuple[list[tuple[Kept, float, Printed | None]], str | None]:
        """What its stages kept, and the name of its tar."""
        source = unit.source.name
        best_by, looks_for_twins = unit.source.spec.best_by, self._printed[source] is not None
        part = open_part(unit_part(unit))
        tar = meta_of(part)["tar"]
        found = []
        for row in part.read(columns=[*_PACKED, *(["scores"] if best_by else []), *(_PRINTED if looks_for_twins else [])]).to_pylist():
            if row["status"] != Status.KEPT or not row["is_sample"]:
                continue
            members = tuple(members_from_json(row["members"]))
            kept = Kept(row["sample_id"], source, row["split"], row["payload_key"], members, tar)
            rank = _rank(row["scores"], best_by) if best_by else 0.0
            found.append((kept, rank, Printed.of(row) if looks_for_twins else None))
        return found, tar

    def offer(self, source: str, samples: Sequence[tuple[Kept, float, Printed | None]]) -> list[Kept]:
        """Take in samples of one source that its stages kept, each with its rank (smaller is better) and, where its source looks for
        twins, its fingerprint; all of a run in plan order. Returns those that are certain to be packed."""
        self._kept += [kept for kept, _, _ in samples]
        if self._sources[source].spec.best_by is not None:
            self._ranked[source] += [_Ranked(rank, kept.sample_id, printed) for kept, rank, printed in samples]
            return []
        self._turn_away(source, [printed for _, _, printed in samples])
        return [kept for kept, _, _ in samples if kept.sample_id not in self._overruled]

    def settle(self) -> tuple[list[Kept], dict[str, Overruled]]:
        """Once all units are taken: the samples to pack, in plan order, and what is turned away, by sample id."""
        for name in self._sources:
            target, ranked = self._sources[name].spec.target_count, sorted(self._ranked[name], key=lambda each: (each.rank, each.sample_id))
            while ranked and target:
                best, ranked = ranked[:target], ranked[target:]
                target -= len(best) - self._turn_away(name, [each.printed for each in best])
            self._turn_away(name, [each.printed for each in ranked], keep=False)
            for each in ranked:
                self._overruled.setdefault(each.sample_id, Overruled(Reason.OVER_TARGET_COUNT))
        return [sample for sample in self._kept if sample.sample_id not in self._overruled], self._overruled

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


def write_tables(
    output: Location, units: Sequence[Unit], records: Sequence[Mapping[str, Any]], overruled: Mapping[str, Overruled]
) -> Totals:
    """Write the three tables and remove files of an earlier, larger run.

    records: of every shard, in plan order. overruled: what the run as a whole turns away, by sample id.
    """
    placed = {sample_id: (record["shard"], digest) for record in records for sample_id, digest in content_digests(record).items()}
    totals = Totals()
    manifest = output / "manifest"
    shard_tables = (pa.Table.from_pylist(list(batch), schema=SHARDS) for batch in _batched(records, _SHARDS_PER_FILE))
    _write_files(manifest / "shards", SHARDS, shard_tables)
    unit_tables: list[pa.Table] = []

    def sample_rows(units: Sequence[Unit]) -> pa.Table:
        parts = together(_rows_of, units, output)
        unit_tables.append(pa.Table.from_pylist([row for _, row in parts], schema=UNITS))
        return _decided(pa.concat_tables([rows for rows, _ in parts]), placed, overruled, totals)

    _write_files(manifest / "samples", SAMPLES, map(sample_rows, _batched(units, _UNITS_PER_FILE)))
    _write_files(manifest / "units", UNITS, unit_tables)
    return totals


def _rows_of(unit: Unit) -> tuple[pa.Table, dict[str, Any]]:
    """Its samples' rows and its own. Its part is opened once for both: from an object store that is a request."""
    part = open_part(unit_part(unit))
    row = meta_of(part)["units_row"]
    return part.read(columns=SAMPLES.names, use_threads=False), {**row, "seconds": list(row["seconds"].items())}


def _decided(table: pa.Table, placed: Mapping[str, tuple[str, str]], overruled: Mapping[str, Overruled], totals: Totals) -> pa.Table:
    """The units' rows as they are, but for what only the whole run knows: twins, the ranking, and the shards."""
    decided = table.select(["sample_id", "source", "status", "reasons", "is_source", "is_sample", "has_text", "notes"]).to_pylist()
    for row in decided:
        if (why := overruled.get(row["sample_id"])) is not None:
            row["status"], row["reasons"] = str(Status.REJECTED), [*row["reasons"], str(why.reason)]
            row["notes"] = sorted({**dict(row["notes"] or ()), **why.notes}.items()) or None
        row["shard"], row["content_sha256"] = placed.get(row["sample_id"], (None, None))
        _count(totals, row)
    for name in ("status", "reasons", "notes", "shard", "content_sha256"):
        column = pa.array([row[name] for row in decided], SAMPLES.field(name).type)
        table = table.set_column(SAMPLES.get_field_index(name), SAMPLES.field(name), column)
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


def _write_files(folder: Location, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """part-00000.parquet and so on; at least one file, so that an empty table can be read too."""
    number = 0
    for number, table in enumerate(tables, 1):
        write_table(folder / f"part-{number - 1:05d}.parquet", table)
    if number == 0:
        write_table(folder / "part-00000.parquet", schema.empty_table())
        number = 1
    for name in [each for each in names(folder, ".parquet") if each.startswith("part-")][number:]:
        remove(folder / name)


def _batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
