"""The manifest: the units' parts compacted into the tables `samples`, `shards` and `units`.

Each Parquet file is replaced whole and holds whole units, so a reader finds one row for every candidate at any moment,
also while a run that changed a limit is replacing them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.binding import Source
from pipeline.parts import members_from_json, meta_of, open_part, part_path, read_meta
from pipeline.shards import Kept, content_digests
from pipeline.store import remove, write_table
from pipeline.unit import Unit
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.verdict import Reason, Status

_PACKED = ["sample_id", "split", "status", "is_sample", "payload_key", "members"]
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


def unit_part(unit: Unit) -> Path:
    return part_path(unit.output, unit.name, unit.key)


class Harvest:
    """What finished units have to pack, gathered in plan order."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.ranked: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)  # (rank, sample id) of ranked sources
        self.units = 0  # how many were taken

    def take(self, unit: Unit) -> list[Kept]:
        """Every sample of the unit that its stages kept. Call it once for each unit, in plan order."""
        best_by = unit.source.spec.best_by
        part = open_part(unit_part(unit))
        tar = meta_of(part)["tar"]
        found = []
        for row in part.read(columns=[*_PACKED, "scores"] if best_by else _PACKED).to_pylist():
            if row["status"] != Status.KEPT or not row["is_sample"]:
                continue
            members = tuple(members_from_json(row["members"]))
            found.append(Kept(row["sample_id"], unit.source.name, row["split"], row["payload_key"], members, tar))
            if best_by is not None:
                self.ranked[unit.source.name].append((_rank(row["scores"], best_by), row["sample_id"]))
        self.kept += found
        self.units += 1
        return found


def _rank(scores: Mapping[str, float | None], best_by: str) -> float:
    """Smaller is better. A sample without the score comes last."""
    value = scores[best_by.removeprefix("-")]
    if value is None or value != value:
        return float("inf")
    return value if best_by.startswith("-") else -value


def over_target(ranked: Mapping[str, Sequence[tuple[float, str]]], sources: Mapping[str, Source]) -> set[str]:
    """Sample ids beyond their source's target_count; ties are settled by the id."""
    over: set[str] = set()
    for name, samples in ranked.items():
        over.update(sample_id for _, sample_id in sorted(samples)[sources[name].spec.target_count :])
    return over


def write_tables(output: Path, units: Sequence[Unit], records: Sequence[Mapping[str, Any]], over: set[str]) -> Totals:
    """Write the three tables and remove files of an earlier, larger run. `records`: of every shard, in plan order."""
    placed = {sample_id: (record["shard"], digest) for record in records for sample_id, digest in content_digests(record).items()}
    totals = Totals()
    manifest = output / "manifest"
    shard_tables = (pa.Table.from_pylist(list(batch), schema=SHARDS) for batch in _batched(records, _SHARDS_PER_FILE))
    _write_files(manifest / "shards", SHARDS, shard_tables)
    _write_files(manifest / "samples", SAMPLES, (_sample_rows(batch, placed, over, totals) for batch in _batched(units, _UNITS_PER_FILE)))
    _write_files(manifest / "units", UNITS, (_unit_rows(batch) for batch in _batched(units, _UNITS_PER_FILE)))
    return totals


def _unit_rows(units: Sequence[Unit]) -> pa.Table:
    rows = [read_meta(unit_part(unit))["units_row"] for unit in units]
    return pa.Table.from_pylist([{**row, "seconds": list(row["seconds"].items())} for row in rows], schema=UNITS)


def _sample_rows(units: Sequence[Unit], placed: Mapping[str, tuple[str, str]], over: set[str], totals: Totals) -> pa.Table:
    """The units' rows as they are, but for what only the whole run knows: the ranking and the shards."""
    table = pa.concat_tables([open_part(unit_part(unit)).read(columns=SAMPLES.names) for unit in units])
    decided = table.select(["sample_id", "source", "status", "reasons", "is_source", "is_sample", "has_text"]).to_pylist()
    for row in decided:
        if row["sample_id"] in over:
            row["status"], row["reasons"] = str(Status.REJECTED), [*row["reasons"], str(Reason.OVER_TARGET_COUNT)]
        row["shard"], row["content_sha256"] = placed.get(row["sample_id"], (None, None))
        _count(totals, row)
    for name in ("status", "reasons", "shard", "content_sha256"):
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


def _write_files(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """part-00000.parquet and so on; at least one file, so that an empty table can be read too."""
    number = 0
    for number, table in enumerate(tables, 1):
        write_table(folder / f"part-{number - 1:05d}.parquet", table)
    if number == 0:
        write_table(folder / "part-00000.parquet", schema.empty_table())
        number = 1
    for path in sorted(folder.glob("part-*.parquet"))[number:]:
        remove(path)


def _batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
