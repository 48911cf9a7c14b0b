"""Shards as bytes: hash them in one pass, compare their tar headers with the table. Never extracts."""

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline.location import Location
from pipeline.store import open_file, size_of

CHUNK = 4 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class HashedShard:
    """size and sha256 of the whole file; per member its sha256, or None where its bytes overlap or are not there."""

    size: int
    sha256: str
    members: tuple[str | None, ...]


def safe_shard_path(folder: Location, name: str) -> Location | None:
    """The plain file `name` below `folder`, or None when the name leaves it or any step on the way is a link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
        return None
    path = folder
    for part in parts:
        path = path / part
        if isinstance(path, Path) and path.is_symlink():
            return None
    return path if size_of(path) is not None else None


def hash_shard(path: Location, members: Sequence[Mapping[str, Any]], progress: Callable[[int], None] = lambda _: None) -> HashedShard:
    """Hash the file and each member (mappings with offset and size, in bytes, sorted by offset) in one pass."""
    whole, position, digests = sha256(), 0, list[str | None]()
    with open_file(path) as file:
        for member in members:
            offset, size = member["offset"], member["size"]
            if offset < position or size < 0:
                digests.append(None)
                continue
            position += _feed(file, offset - position, [whole], progress)
            own = sha256()
            taken = _feed(file, size, [whole, own], progress)
            digests.append(own.hexdigest() if position == offset and taken == size else None)
            position += taken
        while taken := _feed(file, CHUNK, [whole], progress):
            position += taken
    return HashedShard(position, whole.hexdigest(), tuple(digests))


def _feed(file: BinaryIO, count: int, digests: Sequence[Any], progress: Callable[[int], None]) -> int:
    done = 0
    while done < count:
        block = file.read(min(CHUNK, count - done))
        if not block:
            break
        for digest in digests:
            digest.update(block)
        done += len(block)
        progress(len(block))
    return done


def check_headers(path: Location, members: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(member's tar name or "", what is wrong) wherever the tar's own headers and the table disagree.

    Every entry must be a plain file with mtime 0 and a relative name without folders, and must be a member that the
    table lists, at the offset and size that the table gives.
    """
    listed = {f"{member['sample_id']}.{member['name']}": (member["offset"], member["size"]) for member in members}
    seen = set[str]()
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:", errorlevel=0) as archive:
            for entry in archive:
                for what in _check_entry(entry, listed.get(entry.name), entry.name in seen):
                    yield entry.name, what
                seen.add(entry.name)
    except (tarfile.TarError, OSError, ValueError) as error:
        yield "", f"cannot be walked as a tar ({error})"
        return
    for name in sorted(set(listed) - seen):
        yield name, "is in the shards table, but the tar has no such entry"


def _check_entry(entry: tarfile.TarInfo, listed: tuple[int, int] | None, repeated: bool) -> Iterator[str]:
    if not entry.isreg():
        yield f"is no plain file (tar type {entry.type!r}); links and special files are never members"
    if entry.name.startswith("/") or "/" in entry.name or ".." in entry.name.split("."):
        yield "has a name that could leave the folder it is read into"
    if repeated:
        yield "appears twice in the tar"
    if entry.mtime != 0:
        yield f"has mtime {entry.mtime}, must be 0"
    if listed is None:
        yield "is in the tar, but not in the shards table"
    elif listed != (entry.offset_data, entry.size):
        yield f"lies at {entry.offset_data}+{entry.size} in the tar, the table says {listed[0]}+{listed[1]}"
