"""Parts: what one unit of work leaves behind.

`parts/UNIT-KEY.parquet` holds the unit's rows; it is written last, so the unit is done if and only if it is there.
`parts/UNIT-KEY-HASH.tar` holds the members that were made (re-encoded video, images, camera files); the Parquet's
metadata names it. Parts of earlier recipes stay until a run has finished: they hold results that a rerun reuses.
"""

import errno
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.location import Location, OutputFailure
from pipeline.payload import Bytes, Member
from pipeline.rows import PART
from pipeline.steps import StepStore
from pipeline.store import LateNamed, names, read_bytes, read_range, write_bytes, write_table
from pipeline.tar import TarWriter

AGAIN = ".again"  # ends the name of an empty file beside a part that holds E_IO: listing the parts tells which are looked at again
_NAME = re.compile(rf"(u\d{{6,}})-([0-9a-f]{{16}})\.parquet({re.escape(AGAIN)})?")


_META = b"parallax.unit"


class DamagedPart(OutputFailure):
    """A part that no run has written so. It holds nothing that cannot be made again."""

    def __init__(self, path: Location, error: BaseException) -> None:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        super().__init__(errno.EBADMSG, f"{path}: is damaged ({said}); remove it, then run the same command again")


def parts_folder(output: Location) -> Location:
    return output / "parts"


def part_path(output: Location, unit: str, key: str) -> Location:
    return parts_folder(output) / f"{unit}-{key}.parquet"


def list_parts(output: Location) -> dict[str, dict[str, bool]]:
    """Keys of the parts that are there, by unit, and whether storage failed for one of its candidates."""
    found: dict[str, dict[str, bool]] = {}
    for name in names(parts_folder(output)):  # sorted: a part before its mark
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        unit, key, mark = match.groups()
        if mark is None:
            found.setdefault(unit, {})[key] = False
        elif key in found.get(unit, {}):
            found[unit][key] = True
    return found


def open_part(path: Location) -> pq.ParquetFile:
    """A part's Parquet. Opened through this and not as a data set of one file, which takes several times as long.

    From an object store it is one request, whatever will be read of it: a request costs more than a unit's rows. Raises FileNotFoundError,
    StorageFailure, DamagedPart.
    """
    with reading(path):
        part = pq.ParquetFile(path if isinstance(path, Path) else pa.BufferReader(read_bytes(path)))
        _ = part.schema_arrow.metadata[_META]
        return part


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """What a part turns out to be that no run has written, or that has changed since, is a DamagedPart."""
    try:
        yield
    except (pa.ArrowException, LookupError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own have none
            raise
        raise DamagedPart(path, error) from None


def meta_of(part: pq.ParquetFile) -> dict[str, Any]:
    """What the unit said of itself: key parts, timings, counts, excluded candidates, the name of its tar."""
    return json.loads(part.schema_arrow.metadata[_META])


def read_meta(path: Location) -> dict[str, Any]:
    """The same, from the path."""
    with reading(path):
        return meta_of(open_part(path))


def mark(part: Location) -> None:
    """Runs are to look again at this unit, because storage failed."""
    write_bytes(part.parent / f"{part.name}{AGAIN}", b"")


def write_part(output: Location, unit: str, key: str, records: list[dict[str, Any]], meta: dict[str, Any]) -> None:
    """meta: with "unread", whether storage failed for a candidate. The mark is there before the part is."""
    path = part_path(output, unit, key)
    if meta["unread"]:
        mark(path)
    metadata = {_META: json.dumps(meta, sort_keys=True)}
    table = pa.Table.from_pylist(records, schema=PART.with_metadata(metadata))
    write_table(path, table)


def members_to_json(members: Iterable[Member]) -> str:
    return json.dumps([member.plain() for member in members], separators=(",", ":"))


def members_from_json(text: str) -> list[Member]:
    return [Member.of(plain) for plain in json.loads(text)]


class MemberStore:
    """Members made by one unit, in a tar that is put in its place when the unit commits; and those of earlier parts."""

    def __init__(self, output: Location, unit: str, key: str) -> None:
        self._folder, self._stem = parts_folder(output), f"{unit}-{key}"
        self._file: LateNamed | None = None
        self._tar: TarWriter | None = None
        self._known: dict[str, tuple[Location | None, list[Member]]] = {}

    def learn(self, path: Location, store: StepStore, version: int) -> dict[str, Any] | None:
        """Take in an earlier part of the unit: its steps' results and its members. Returns what it said of itself; None for one that
        was written by another UNIT_VERSION, of which nothing is taken."""
        part = open_part(path)
        with reading(path):
            meta = meta_of(part)
            if meta["key_parts"]["unit_version"] != version:
                return None
            tar = self._folder / meta["tar"] if meta["tar"] else None
            rows = part.read(columns=["sample_id", "features", "payload_key", "members"]).to_pylist()
        for row in rows:
            if row["features"]:
                store.learn(row["sample_id"], row["features"])
            if row["payload_key"] and row["members"]:
                self._known[row["payload_key"]] = (tar, members_from_json(row["members"]))
        return meta

    def reuse(self, payload_key: str) -> list[Member] | None:
        """Members that an earlier part made for the same content, moved into this one; None if there are none."""
        known = self._known.get(payload_key)
        if known is None:
            return None
        tar, members = known
        try:
            with _the_output():
                data = [None if member.offset is None else _read(tar, member) for member in members]
        except FileNotFoundError:  # lost since it was written: they are made again
            return None
        if any(each is not None and sha256(each).hexdigest() != member.sha256 for each, member in zip(data, members, strict=True)):
            return None  # damaged since it was written: it is made again
        return [member if each is None else self._write(member.name, each) for each, member in zip(data, members, strict=True)]

    def add(self, members: Iterable[Member | Bytes]) -> list[Member]:
        return [self._write(member.name, member.data) if isinstance(member, Bytes) else member for member in members]

    def _write(self, name: str, data: bytes) -> Member:
        with _the_output():
            if self._tar is None:
                self._file = LateNamed(self._folder)
                self._tar = TarWriter(self._file.file)
            offset, digest = self._tar.add(name, len(data), [data])
        return Member(name, len(data), sha256=digest, offset=offset)

    def commit(self) -> str | None:
        """Put the tar in its place. Returns its name, which holds its hash; None if nothing was made."""
        if self._tar is None or self._file is None:
            return None
        name = f"{self._stem}-{self._tar.finish()[:8]}.tar"
        self._file.commit(name)
        self._tar = self._file = None
        return name

    def abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()
            self._tar = self._file = None


@contextmanager
def _the_output() -> Iterator[None]:
    """What fails here is no fault of the candidate that is being packed. Raises OutputFailure, FileNotFoundError."""
    try:
        yield
    except (OutputFailure, FileNotFoundError):
        raise
    except OSError as error:
        raise OutputFailure(error.errno, f"the output cannot be read or written: {error.strerror or error}", error.filename) from error


def _read(tar: Location | None, member: Member) -> bytes:
    assert tar is not None and member.offset is not None, "a member made by us lies in a tar"
    return read_range(tar, member.offset, member.size)
