"""Packing: kept samples, in plan order or a seeded shuffle of it, into shards of one size.

Which sample lies in which shard follows from the rows alone, so shards can be written by any worker in any order. A
shard's name holds a hash of what goes into it: no shard is ever replaced by another of the same name, a shard that is
there is the right one, and readers of the old manifest keep their shards until the new manifest is in place.
"""

import json
import random
from array import array
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.executors import Task
from pipeline.kept import InParts, Kept, KeptSamples, Packable
from pipeline.location import Location
from pipeline.payload import Member, content_digest
from pipeline.store import atomic_file, canonical_json, open_file, size_of, write_bytes
from pipeline.tar import TarWriter
from schemas.candidate import sample_key
from schemas.manifest import MEMBER
from schemas.recipe import Shards
from schemas.verdict import Reason
from stages.storage import Tree

SHARD_VERSION = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One shard as planned: the scheduler's Work. Picklable."""

    name: str
    source: str
    split: str | None
    samples: InParts
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
        """The shard's own record, written last: the shard is done if and only if it is there. JSON lines: its row of the `shards` table
        but for the members, then these."""
        return self.output / "parts" / f"shard-{self.name.removesuffix('.tar')}.jsonl"


class ShardPlan:
    """Shards of at most the target size, filled in the order samples are added; a sample is never split.

    A shard is certain as soon as the next sample of its source and split no longer fits, so packing can begin while
    later units are still under way.
    """

    def __init__(self, settings: Shards, output: Location, roots: Mapping[str, Tree], kept: KeptSamples) -> None:
        """kept: what the samples to be added are of."""
        self._target = round(settings.target_mb * 1e6)
        self._output, self._roots, self._kept = output, roots, kept
        self._filling: dict[tuple[str, str | None], _Filling] = {}
        self._complete: defaultdict[tuple[str, str | None], list[Shard]] = defaultdict(list)

    def add(self, sample: Kept) -> Shard | None:
        """Returns the shard that this sample completed by no longer fitting into it."""
        group = (sample.source, sample.split)
        filling = self._filling.setdefault(group, _Filling())
        full = bool(filling.numbers) and filling.bytes + sample.bytes > self._target
        shard = self._close(group) if full else None
        self._filling[group].add(sample)
        return shard

    def finish(self) -> list[Shard]:
        """Every shard: sources and splits in the order of their first sample, the last shard of each as full as it got."""
        for group, filling in self._filling.items():
            if filling.numbers:
                self._close(group)
        return [shard for group in self._filling for shard in self._complete[group]]

    def _close(self, group: tuple[str, str | None]) -> Shard:
        source, split = group
        filling, complete = self._filling[group], self._complete[group]
        names = sample_key(source), sample_key(split) if split else "all", f"{len(complete):06d}", filling.content_hash()[:8]
        samples = self._kept.to_pack(filling.numbers, self._output)
        complete.append(Shard(f"{'-'.join(names)}.tar", source, split, samples, self._output, self._roots[source]))
        self._filling[group] = _Filling()
        return complete[-1]


class _Filling:
    """The shard of a group that is being filled."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.bytes = 0
        self._content = sha256(f"[{SHARD_VERSION},[".encode())

    def add(self, sample: Kept) -> None:
        self._content.update(("," if self.numbers else "").encode() + canonical_json([sample.sample_id, sample.payload_key]))
        self.numbers.append(sample.number)
        self.bytes += sample.bytes

    def content_hash(self) -> str:
        """`stable_hash` of [SHARD_VERSION, [[sample id, payload key], ...]], of which nothing but the hash is kept."""
        content = self._content.copy()
        content.update(b"]]")
        return content.hexdigest()


def plan_shards(
    kept: KeptSamples, overruled: Container[str], settings: Shards, seed: int, output: Location, roots: Mapping[str, Tree]
) -> list[Shard]:
    """The shards of all kept samples but the overruled ones (ids), in plan order or, by the recipe's wish, in a seeded shuffle of it."""
    plan = ShardPlan(settings, output, roots, kept)
    chosen = (sample for sample in kept if sample.sample_id not in overruled)
    if settings.order == "shuffle":
        numbers = array("Q", (sample.number for sample in chosen))
        random.Random(seed).shuffle(numbers)
        chosen = (kept[number] for number in numbers)
    for sample in chosen:
        plan.add(sample)
    return plan.finish()


def pack(shard: Shard) -> dict[str, Any]:
    """Write one shard and then its record: a row of the `shards` table. Returns {"bytes": its size}.

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
    }
    write_bytes(shard.record_path, b"".join(canonical_json(each) + b"\n" for each in (record, *members)))
    return {"bytes": tar.size}


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


def _chunks(shard: Shard, sample: Packable, member: Member, parts: _Parts, buffer: memoryview) -> Iterator[memoryview]:
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


def is_packed(shard: Shard) -> bool:
    return size_of(shard.record_path) is not None and size_of(shard.path) is not None


@dataclass(frozen=True)
class Record:
    """What a packed shard says of itself. content: content_sha256 of its samples [N * 32 bytes], in its order."""

    row: Mapping[str, Any]  # of the `shards` table, but for its members
    members: pa.StructArray
    content: bytes


def read_record(shard: Shard) -> Record:
    """Line by line: a shard may hold hundreds of thousands of members, and as objects they take ten times what they do as columns."""
    texts = {field.name: _Texts() for field in MEMBER if field.type == pa.string()}
    numbers = {field.name: array("q") for field in MEMBER if field.type == pa.int64()}
    content = bytearray()
    with open_file(shard.record_path) as file:
        row = json.loads(file.readline())
        # Those of a sample follow one another.
        for _, members in groupby(map(json.loads, file), key=itemgetter("sample_id")):
            some = list(members)
            content += bytes.fromhex(content_digest([(member["name"], member["sha256"]) for member in some]))
            for member in some:
                for name, column in texts.items():
                    column.append(member[name])
                for name, values in numbers.items():
                    values.append(member[name])
    columns = {name: column.array() for name, column in texts.items()}
    columns |= {name: pa.Array.from_buffers(pa.int64(), len(each), [None, pa.py_buffer(each)]) for name, each in numbers.items()}
    return Record(row, pa.StructArray.from_arrays([columns[field.name] for field in MEMBER], fields=list(MEMBER)), bytes(content))


class _Texts:
    """A column of texts that grows in its place: Arrow's arrays can only be copied together."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("i", [0])

    def append(self, text: str) -> None:
        self._text += text.encode()
        self._ends.append(len(self._text))

    def array(self) -> pa.StringArray:
        return pa.StringArray.from_buffers(len(self._ends) - 1, pa.py_buffer(self._ends), pa.py_buffer(self._text))
