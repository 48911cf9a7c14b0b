"""Packing: kept samples, in plan order or a seeded shuffle of it, into shards of one size.

Which sample lies in which shard follows from the rows alone, so shards can be written by any worker in any order. A
shard's name holds a hash of what goes into it: no shard is ever replaced by another of the same name, a shard that is
there is the right one, and readers of the old manifest keep their shards until the new manifest is in place.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, BinaryIO

from pipeline.executors import Task
from pipeline.payload import Member, content_digest
from pipeline.store import Location, atomic_file, open_file, read_json, size_of, stable_hash, write_json
from pipeline.tar import TarWriter, padded
from schemas.candidate import sample_key
from schemas.recipe import Shards
from schemas.verdict import Reason
from stages.storage import Tree

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

    @cached_property
    def bytes(self) -> int:
        return sum(padded(member.size) for member in self.members)


@dataclass(frozen=True)
class Shard:
    """One shard as planned: the scheduler's Work. Picklable."""

    name: str
    source: str
    split: str | None
    samples: tuple[Kept, ...]
    output: Location
    root: Tree

    @property
    def key(self) -> str:
        return self.name

    @property
    def n_items(self) -> int:
        return 1

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        return Task(key=self.name, function="pipeline.shards:pack", payload=self)

    @property
    def path(self) -> Location:
        return self.output / "shards" / self.name

    @property
    def record_path(self) -> Location:
        """The shard's own record, written last: the shard is done if and only if it is there."""
        return self.output / "parts" / f"shard-{self.name.removesuffix('.tar')}.json"


class ShardPlan:
    """Shards of at most the target size, filled in the order samples are added; a sample is never split.

    A shard is certain as soon as the next sample of its source and split no longer fits, so packing can begin while
    later units are still under way.
    """

    def __init__(self, settings: Shards, output: Location, roots: Mapping[str, Tree]) -> None:
        self._target = round(settings.target_mb * 1e6)
        self._output, self._roots = output, roots
        self._filling: dict[tuple[str, str | None], list[Kept]] = {}
        self._bytes: defaultdict[tuple[str, str | None], int] = defaultdict(int)  # of what is being filled
        self._complete: defaultdict[tuple[str, str | None], list[Shard]] = defaultdict(list)

    def add(self, sample: Kept) -> Shard | None:
        """Returns the shard that this sample completed by no longer fitting into it."""
        group = (sample.source, sample.split)
        filling = self._filling.setdefault(group, [])
        full = bool(filling) and self._bytes[group] + sample.bytes > self._target
        shard = self._close(group) if full else None
        self._filling[group].append(sample)
        self._bytes[group] += sample.bytes
        return shard

    def finish(self) -> list[Shard]:
        """Every shard: sources and splits in the order of their first sample, the last shard of each as full as it got."""
        for group, filling in self._filling.items():
            if filling:
                self._close(group)
        return [shard for group in self._filling for shard in self._complete[group]]

    def _close(self, group: tuple[str, str | None]) -> Shard:
        source, split = group
        samples, complete = self._filling[group], self._complete[group]
        content = [SHARD_VERSION, [[each.sample_id, each.payload_key] for each in samples]]
        names = sample_key(source), sample_key(split) if split else "all", f"{len(complete):06d}", stable_hash(content)[:8]
        complete.append(Shard(f"{'-'.join(names)}.tar", source, split, tuple(samples), self._output, self._roots[source]))
        self._filling[group], self._bytes[group] = [], 0
        return complete[-1]


def plan_shards(kept: Sequence[Kept], settings: Shards, seed: int, output: Location, roots: Mapping[str, Tree]) -> list[Shard]:
    """The shards of all kept samples, in plan order or, by the recipe's wish, in a seeded shuffle of it."""
    samples = list(kept)
    if settings.order == "shuffle":
        random.Random(seed).shuffle(samples)
    plan = ShardPlan(settings, output, roots)
    for sample in samples:
        plan.add(sample)
    return plan.finish()


def pack(shard: Shard) -> dict[str, Any]:
    """Write one shard and then its record. Returns the record: a row of the `shards` table.

    Raises CandidateError(E_IO) when a source file is no longer what was examined, OSError when storage fails.
    """
    members = []
    buffer = memoryview(bytearray(_CHUNK))  # read into again and again: a fresh megabyte for every read costs a quarter of the speed
    with atomic_file(shard.path) as file, _Parts(shard.output) as parts:
        tar = TarWriter(file)
        for sample in shard.samples:
            for member in sample.members:
                offset, digest = tar.add(f"{sample.sample_id}.{member.name}", member.size, _chunks(shard, sample, member, parts, buffer))
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


class _Parts:
    """The tar of one part after the other, kept open: a unit's samples follow one another, and a store is asked for much at once."""

    def __init__(self, output: Location) -> None:
        self._output = output
        self._open: tuple[str, BinaryIO] | None = None

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._open is not None:
            self._open[1].close()

    def tar(self, name: str) -> BinaryIO:
        if self._open is None or self._open[0] != name:
            self.__exit__(None, None, None)
            self._open = name, open_file(self._output / "parts" / name)
        return self._open[1]


def _chunks(shard: Shard, sample: Kept, member: Member, parts: _Parts, buffer: memoryview) -> Iterator[memoryview]:
    """The member's bytes: from the part's tar, or from the source file, which must be the one that was examined.

    Every chunk lies in `buffer` and is gone with the next one.
    """
    if member.file is None:
        yield from _pieces(parts.tar(str(sample.tar)), member.offset or 0, member.size, buffer)
        return
    with shard.root.open(member.file) as file:
        yield from _pieces(file, 0, member.size, buffer)


def _pieces(file: Any, start: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    file.seek(start)
    left = size
    while left > 0 and (count := file.readinto(buffer[: min(_CHUNK, left)])):
        left -= count
        yield buffer[:count]


def read_record(shard: Shard) -> dict[str, Any] | None:
    """The record of a shard that is done; None if it still has to be packed."""
    try:
        record: dict[str, Any] = read_json(shard.record_path)
    except FileNotFoundError:
        return None
    return record if size_of(shard.path) is not None else None


def content_digests(record: Mapping[str, Any]) -> dict[str, str]:
    """content_sha256 of every sample in a shard."""
    members: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in record["members"]:
        members[member["sample_id"]].append((member["name"], member["sha256"]))
    return {sample_id: content_digest(each) for sample_id, each in members.items()}
