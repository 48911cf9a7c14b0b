"""Packing: kept samples, in plan order or a seeded shuffle of it, into shards of one size.

Which sample lies in which shard follows from the rows alone, so shards can be written by any worker in any order. A
shard's name holds a hash of what goes into it: no shard is ever replaced by another of the same name, a shard that is
there is the right one, and readers of the old manifest keep their shards until the new manifest is in place.
"""

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.executors import Task
from pipeline.payload import Member, check_unchanged, content_digest
from pipeline.store import atomic_file, stable_hash, write_json
from pipeline.tar import TarWriter, padded
from schemas.candidate import sample_key
from schemas.recipe import Shards
from schemas.verdict import Reason

SHARD_VERSION = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Kept:
    """A kept sample, ready to pack."""

    sample_id: str
    source: str
    split: str | None
    payload_key: str
    members: tuple[Member, ...]
    tar: str | None  # the part's tar, which holds the members made by us

    @property
    def bytes(self) -> int:
        return sum(padded(member.size) for member in self.members)


@dataclass(frozen=True)
class Shard:
    """One shard as planned: the scheduler's Work. Picklable."""

    name: str
    source: str
    split: str | None
    samples: tuple[Kept, ...]
    output: Path
    root: Path

    @property
    def key(self) -> str:
        return self.name

    @property
    def n_items(self) -> int:
        return 1

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        return Task(key=self.name, function="pipeline.shards:pack", payload=self)

    @property
    def path(self) -> Path:
        return self.output / "shards" / self.name

    @property
    def record_path(self) -> Path:
        """The shard's own record, written last: the shard is done if and only if it is there."""
        return self.output / "parts" / f"shard-{self.name.removesuffix('.tar')}.json"


def plan_shards(kept: Sequence[Kept], settings: Shards, seed: int, output: Path, roots: Mapping[str, Path]) -> list[Shard]:
    """Shards of at least the target size each but the last of a source and split; samples are never split."""
    groups: defaultdict[tuple[str, str | None], list[Kept]] = defaultdict(list)
    for sample in kept:
        groups[sample.source, sample.split].append(sample)
    shards = []
    for (source, split), samples in groups.items():
        if settings.order == "shuffle":
            random.Random(f"{seed}/{source}/{split}").shuffle(samples)
        for index, filling in enumerate(_fill(samples, round(settings.target_mb * 1e6))):
            content = [SHARD_VERSION, [[each.sample_id, each.payload_key] for each in filling]]
            stem = f"{sample_key(source)}-{sample_key(split) if split else 'all'}-{index:06d}-{stable_hash(content)[:8]}"
            shards.append(Shard(f"{stem}.tar", source, split, tuple(filling), output, roots[source]))
    return shards


def _fill(samples: Sequence[Kept], target: int) -> Iterator[list[Kept]]:
    filling: list[Kept] = []
    size = 0
    for sample in samples:
        if filling and size + sample.bytes > target:
            yield filling
            filling, size = [], 0
        filling.append(sample)
        size += sample.bytes
    if filling:
        yield filling


def pack(shard: Shard) -> dict[str, Any]:
    """Write one shard and then its record. Returns the record: a row of the `shards` table.

    Raises CandidateError(E_IO) when a source file is no longer what was examined, OSError when storage fails.
    """
    members = []
    buffer = memoryview(bytearray(_CHUNK))  # read into again and again: a fresh megabyte for every read costs a quarter of the speed
    with atomic_file(shard.path) as file:
        tar = TarWriter(file)
        for sample in shard.samples:
            for member in sample.members:
                offset, digest = tar.add(f"{sample.sample_id}.{member.name}", member.size, _chunks(shard, sample, member, buffer))
                if member.sha256 not in (None, digest):
                    raise OSError(f"{sample.sample_id}.{member.name}: the part {sample.tar} no longer holds what was written to it")
                where = {"offset": offset, "size": member.size, "sha256": digest}
                members.append({"sample_id": sample.sample_id, "name": member.name, **where})
        digest = tar.finish()
    record = {
        "shard": shard.name,
        "source": shard.source,
        "split": shard.split,
        "bytes": tar.size,
        "sha256": digest,
        "n_samples": len(shard.samples),
        "members": members,
    }
    write_json(shard.record_path, record)
    return record


def _chunks(shard: Shard, sample: Kept, member: Member, buffer: memoryview) -> Iterator[memoryview]:
    """The member's bytes: from the part's tar, or from the source file, which must be the one that was examined.

    Every chunk lies in `buffer` and is gone with the next one.
    """
    if member.path is None:
        path, start = shard.output / "parts" / str(sample.tar), member.offset or 0
    else:
        path, start = shard.root / member.path, 0
    with path.open("rb", buffering=0) as file:
        if member.path is not None:
            status = os.fstat(file.fileno())
            check_unchanged(member, status.st_size, status.st_mtime_ns)
        file.seek(start)
        left = member.size
        while left > 0 and (count := file.readinto(buffer[: min(_CHUNK, left)])):
            left -= count
            yield buffer[:count]


def read_record(shard: Shard) -> dict[str, Any] | None:
    """The record of a shard that is done; None if it still has to be packed."""
    if not shard.record_path.is_file() or not shard.path.is_file():
        return None
    return json.loads(shard.record_path.read_text(encoding="utf-8"))


def content_digests(record: Mapping[str, Any]) -> dict[str, str]:
    """content_sha256 of every sample in a shard."""
    members: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in record["members"]:
        members[member["sample_id"]].append((member["name"], member["sha256"]))
    return {sample_id: content_digest(each) for sample_id, each in members.items()}
