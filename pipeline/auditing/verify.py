"""Is the folder what its tables say? Every byte of every shard is read again and compared."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.auditing.archive import check_headers, hash_shard, safe_shard_path
from pipeline.auditing.folder import TABLES, OutputFolder
from pipeline.auditing.verify_origin import check_origin
from pipeline.location import Location
from pipeline.store import names, parquet_source
from schemas.candidate import CHILD, MAX_KEY, MAX_SUFFIX
from schemas.verdict import Reason, Status, status_of

_LEGAL_KEY = re.compile(r"[A-Za-z0-9_-]+")
_COLUMNS = ["sample_id", "parent_id", "source", "is_source", "is_sample", "n_children", "status", "reasons", "shard"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what with the value and what it should be."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify(output: OutputFolder, progress: Callable[[int], None] = lambda _: None) -> list[Problem]:
    """Everything that is wrong with the folder; empty when nothing is.

    progress: called with the number of shard bytes read since the last call.
    Reads every shard once, hashing the whole and each member in the same pass, and then what made them. Raises OutputError where a
    table cannot be read at all.
    """
    problems = list(_check_schemas(output))
    if problems:
        return problems
    shards = output.table("shards").to_pylist()
    homes: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        problems += _check_shard(output.path / "shards", shard, progress)
        for sample_id in dict.fromkeys(member["sample_id"] for member in shard["members"]):
            homes[sample_id].append(shard["shard"])
    problems += _check_names(output.path / "shards", [shard["shard"] for shard in shards])
    rows = output.table("samples", _COLUMNS).to_pylist()
    problems += _check_rows(rows)
    problems += _check_families(rows)
    problems += _check_homes(rows, homes)
    problems += _check_contents(output, shards)
    problems += _check_units(output)
    return problems + [Problem(where, what) for where, what in check_origin(output)]


def total_bytes(output: OutputFolder) -> int:
    """How many shard bytes `verify` will read."""
    return sum(output.table("shards", ["bytes"]).column("bytes").to_pylist())


def _check_schemas(output: OutputFolder) -> Iterator[Problem]:
    for name, schema in TABLES.items():
        for part in output.parts(name):  # type: ignore[arg-type]
            try:
                found = pq.read_schema(parquet_source(part))
            except (OSError, ValueError) as error:
                yield Problem(f"manifest/{name}/{part.name}", f"cannot be read as Parquet ({error})")
                continue
            if not found.equals(schema, check_metadata=False):
                missing = sorted(set(schema.names) - set(found.names))
                extra = sorted(set(found.names) - set(schema.names))
                yield Problem(
                    f"manifest/{name}/{part.name}", f"columns differ from the schema: missing {missing}, unknown {extra}, or other types"
                )


def _check_shard(folder: Location, shard: Mapping[str, Any], progress: Callable[[int], None]) -> Iterator[Problem]:
    where = f"shards/{shard['shard']}"
    path = safe_shard_path(folder, shard["shard"])
    if path is None:
        yield Problem(where, "the name in the table leaves DIR/shards, goes through a link, or is no plain file there")
        return
    members: Sequence[Mapping[str, Any]] = sorted(shard["members"], key=lambda member: member["offset"])
    hashed = hash_shard(path, members, progress)
    if hashed.size != shard["bytes"]:
        yield Problem(where, f"is {hashed.size} bytes, the table says {shard['bytes']}")
    if hashed.sha256 != shard["sha256"]:
        yield Problem(where, f"sha256 is {hashed.sha256}, the table says {shard['sha256']}")
    for member, digest in zip(members, hashed.members, strict=True):
        label = f"{where} {member['sample_id']}.{member['name']}"
        if digest is None:
            yield Problem(label, f"bytes {member['offset']}+{member['size']} overlap another member or lie beyond the end of the file")
        elif digest != member["sha256"]:
            yield Problem(label, f"sha256 of bytes {member['offset']}+{member['size']} is {digest}, the table says {member['sha256']}")
    ids = [member["sample_id"] for member in members]
    runs = [key for i, key in enumerate(ids) if i == 0 or ids[i - 1] != key]
    for key, times in Counter(runs).items():
        if times > 1:
            yield Problem(f"{where} {key}", f"members are not contiguous: they lie in {times} separate places")
    names: dict[str, list[str]] = defaultdict(list)
    for member in members:
        names[member["sample_id"]].append(member["name"])
    for key, found in names.items():
        if found != sorted(set(found)):
            yield Problem(f"{where} {key}", f"members are not sorted, or one appears twice: {found}")
    if len(names) != shard["n_samples"]:
        yield Problem(where, f"holds {len(names)} samples, the table says {shard['n_samples']}")
    for name, what in check_headers(path, members):
        yield Problem(f"{where} {name}" if name else where, what)


def _check_names(folder: Location, named: Sequence[str]) -> Iterator[Problem]:
    for name, times in Counter(named).items():
        if times > 1:
            yield Problem(f"shards/{name}", f"is named by {times} rows of the shards table")
    for name in names(folder, below=True):
        if name not in named:
            yield Problem(f"shards/{name}", "is not in the shards table; left by an interrupted run or put there by someone else")


def _check_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    for key, times in Counter(row["sample_id"] for row in rows).items():
        if times > 1:
            yield Problem(f"samples {key}", f"{times} rows have this sample_id")
    known = {str(reason) for reason in Reason}
    for row in rows:
        where = f"samples {row['sample_id']!r}"
        longest = MAX_KEY if row["is_source"] else MAX_KEY + len(CHILD) + MAX_SUFFIX
        if not _LEGAL_KEY.fullmatch(row["sample_id"]) or len(row["sample_id"]) > longest:
            yield Problem(where, f"a sample key is 1 to {longest} of A-Z a-z 0-9 _ -")
        unknown = [reason for reason in row["reasons"] if reason not in known]
        if unknown:
            yield Problem(where, f"reasons outside the closed set: {unknown}")
        elif row["status"] != status_of([Reason(reason) for reason in row["reasons"]]):
            expected = status_of([Reason(reason) for reason in row["reasons"]])
            yield Problem(where, f"status is {row['status']!r}, but its reasons {row['reasons']} mean {str(expected)!r}")
        if row["is_source"] != (row["parent_id"] is None):
            yield Problem(
                where, f"is_source is {row['is_source']} with parent_id {row['parent_id']!r}; sources have none, children have one"
            )


def _check_families(rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    sources = {row["sample_id"]: row for row in rows if row["is_source"]}
    children = Counter(row["parent_id"] for row in rows if row["parent_id"] is not None)
    for key, row in sources.items():
        if row["n_children"] != children[key]:
            yield Problem(f"samples {key}", f"n_children is {row['n_children']}, but {children[key]} rows name it as their parent")
    for row in rows:
        parent = row["parent_id"]
        if parent is not None and (parent not in sources or sources[parent]["source"] != row["source"]):
            yield Problem(f"samples {row['sample_id']}", f"parent_id {parent!r} is no source row of {row['source']!r}")


def _check_homes(rows: Sequence[Mapping[str, Any]], homes: Mapping[str, list[str]]) -> Iterator[Problem]:
    known = set()
    for row in rows:
        key = row["sample_id"]
        known.add(key)
        found = homes.get(key, [])
        wanted = row["status"] == Status.KEPT and row["is_sample"]
        if wanted and len(found) != 1:
            yield Problem(f"samples {key}", f"is kept, so it must be in exactly one shard; it is in {found or 'none'}")
        elif not wanted and found:
            yield Problem(f"samples {key}", f"is {row['status']}, yet it is in {found}")
        elif row["shard"] != (found[0] if found else None):
            yield Problem(f"samples {key}", f"shard is {row['shard']!r} in samples, {found[0] if found else None!r} in shards")
    for key in homes:
        if key not in known:
            yield Problem(f"shards {homes[key][0]} {key}", "this sample has no row in the samples table")


def _check_contents(output: OutputFolder, shards: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """content_sha256 is over the names and hashes of a sample's members, in tar order."""
    digests: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for shard in shards:
        for member in shard["members"]:
            digests[member["sample_id"]].append((member["name"], member["sha256"]))
    table = output.table("samples", ["sample_id", "content_sha256"], ds.field("shard").is_valid())
    for row in table.to_pylist():
        members = digests.get(row["sample_id"])
        if members is not None and row["content_sha256"] != content_sha256(members):
            yield Problem(f"samples {row['sample_id']}", "content_sha256 is not that of its members' names and hashes")


def content_sha256(members: Sequence[tuple[str, str]]) -> str:
    """Digest over (name, sha256) of a sample's members, sorted by name. Recomputed here, not asked of the writer."""
    return sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(members)).encode()).hexdigest()


def _check_units(output: OutputFolder) -> Iterator[Problem]:
    units = output.table("units", ["unit", "n_rows"]).to_pylist()
    for name, times in Counter(unit["unit"] for unit in units).items():
        if times > 1:
            yield Problem(f"units {name}", f"is named by {times} rows of the units table")
    rows = Counter(output.table("samples", ["unit"]).column("unit").to_pylist())
    for unit in units:
        if unit["n_rows"] != rows[unit["unit"]]:
            yield Problem(f"units {unit['unit']}", f"n_rows is {unit['n_rows']}, but {rows[unit['unit']]} rows of samples name it")
    for name in sorted(set(rows) - {unit["unit"] for unit in units}):
        yield Problem(f"units {name}", f"{rows[name]} rows of samples name this unit, which the units table does not hold")
