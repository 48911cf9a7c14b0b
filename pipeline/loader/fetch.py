"""Members of shards by their byte ranges: local files by pread, anything else through fsspec with few, concurrent requests.

Nothing is opened before it is needed, and nothing open is handed to another process, so a Store may be made before workers are.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pipeline.loader.catalog import Member

REMOTE_GAP = 256 << 10  # bytes that are cheaper to read and drop than another request is
DENSE = 0.5  # where at least this share of a stretch is wanted, it is read as one
LARGEST = 32 << 20  # a request is not made larger than this by joining; several of them travel at the same time
CONCURRENT = 64  # of one call: the latency counts once for so many, and 16 samples of 4 views are about 50 ranges
ATTEMPTS = 5
FIRST_DELAY_S = 0.1

_OPEN_FILES = 64


class ReadError(Exception):
    """A sample cannot be read: its shard is missing or shorter than the manifest says, a member is damaged, cameras do not fit.

    The sample's fault, and the same whenever it is tried again; the loader takes another.
    """


class StorageError(Exception):
    """Storage does not answer, after several attempts. No sample's fault: taking others would change what a run trains on."""


@dataclass
class Counters:
    """bytes_asked: the members themselves. bytes_read: what came for them, gaps included. requests: reads that were made."""

    bytes_asked: int = 0
    bytes_read: int = 0
    requests: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(*(getattr(self, name) + getattr(other, name) for name in ("bytes_asked", "bytes_read", "requests")))


@dataclass(frozen=True)
class Span:
    """Bytes start..stop of one shard that are read at once; members are positions in the list that was asked for."""

    shard: str
    start: int
    stop: int
    members: tuple[int, ...]


def join(members: Sequence[Member], gap: int, largest: int = LARGEST) -> list[Span]:
    """The requests for `members`, by shard and offset: neighbours at most `gap` bytes apart become one, and so does a stretch
    of which at least DENSE is wanted.
    """
    spans: list[Span] = []
    order = sorted(range(len(members)), key=lambda i: (members[i].shard, members[i].offset))
    for shard, group in groupby(order, key=lambda i: members[i].shard):
        span, wanted = None, 0
        for i in group:
            start, stop = members[i].offset, members[i].offset + members[i].size
            if span is None:
                span, wanted = Span(shard, start, stop, (i,)), stop - start
                continue
            end = max(span.stop, stop)
            wanted += max(0, stop - max(start, span.stop))
            near = start - span.stop <= gap or wanted >= DENSE * (end - span.start)
            if near and end - span.start <= largest:
                span = Span(shard, span.start, end, (*span.members, i))
            else:
                spans.append(span)
                span, wanted = Span(shard, start, stop, (i,)), stop - start
        if span is not None:
            spans.append(span)
    return spans


class Store:
    """The shards below `location`, an output folder as a path or an fsspec URL. For one thread at a time.

    gap: see `join`; by default 256 KiB for remote storage; local members are read one by one, without a second copy.
    """

    def __init__(self, location: str, gap: int | None = None) -> None:
        self.location = str(location)
        self.counters = Counters()
        self._backend: _Local | _Remote | None = None
        self._process = -1
        self._gap = gap

    def fetch(self, members: Sequence[Member]) -> list[bytes]:
        """The bytes of every member, in the order asked. Raises ReadError for the first that cannot be had; StorageError."""
        found = self.fetch_each(members)
        for each in found:
            if isinstance(each, ReadError):
                raise each
        return [each for each in found if isinstance(each, bytes)]

    def fetch_each(self, members: Sequence[Member]) -> list[bytes | ReadError]:
        """The same, with a ReadError in the place of each member that cannot be had. Raises StorageError."""
        backend = self._open()
        spans = join(members, backend.gap if self._gap is None else self._gap) if backend.joins else _singly(members)
        found: list[bytes | ReadError] = [b""] * len(members)
        for span, data in zip(spans, backend.read(spans), strict=True):
            self.counters.requests += 1
            self.counters.bytes_read += len(data)
            for i in span.members:
                member, at = members[i], members[i].offset - span.start
                whole = data if len(span.members) == 1 else data[at : at + member.size]
                self.counters.bytes_asked += member.size
                found[i] = whole if len(whole) == member.size else self._short(member, span.start + len(data))
        return found

    def close(self) -> None:
        """Close open files. A later call opens them again."""
        if self._backend is not None and self._process == os.getpid():
            self._backend.close()
        self._backend = None

    def _open(self) -> "_Local | _Remote":
        if self._backend is None or self._process != os.getpid():  # what a fork brought along belongs to the parent
            self._backend = _Remote(self.location) if is_remote(self.location) else _Local(self.location)
            self._process = os.getpid()
        return self._backend

    def _short(self, member: Member, available: int) -> ReadError:
        assert self._backend is not None
        size = self._backend.size(member.shard)
        end = member.offset + member.size
        state = "is missing" if size is None else f"has {size} bytes" if size < end else f"gave bytes up to {available} only"
        return ReadError(
            f"{member.sample_id}.{member.name}: bytes {member.offset} to {end} of shard {member.shard} are needed, but it {state}; "
            f"run: python -m pipeline.audit verify {self.location}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_backend": None, "_process": -1}


def is_remote(location: str) -> bool:
    """Whether the location is a URL of anything but the local file system."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme not in ("file", "local")


def _singly(members: Sequence[Member]) -> list[Span]:
    order = sorted(range(len(members)), key=lambda i: (members[i].shard, members[i].offset))
    return [Span(members[i].shard, members[i].offset, members[i].offset + members[i].size, (i,)) for i in order]


class _Local:
    """pread on files that stay open, the least recently used closed first."""

    joins = False
    gap = 0

    def __init__(self, location: str) -> None:
        self._root = os.path.join(location.partition("://")[2] or location, "shards")
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        return [self._read(span) for span in spans]

    def size(self, shard: str) -> int | None:
        try:
            return os.stat(os.path.join(self._root, shard)).st_size
        except FileNotFoundError:
            return None

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _read(self, span: Span) -> bytes:
        """Fewer bytes than asked where the file ends, none where it is missing."""
        try:
            fd = self._descriptor(span.shard)
            pieces, at = [], span.start
            while at < span.stop and (piece := os.pread(fd, span.stop - at, at)):
                pieces.append(piece)
                at += len(piece)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError(f"shard {span.shard}: {error.strerror or error}; see to {self._root}, then resume") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        fd = os.open(os.path.join(self._root, shard), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._open[shard] = fd
        if len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return fd


class _Remote:
    """Ranges through fsspec, all of one call at the same time (CONCURRENT at most), those that fail again after a pause."""

    joins = True
    gap = REMOTE_GAP

    def __init__(self, location: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{location} cannot be opened: {error}") from error
        self._root = f"{root.rstrip('/')}/shards"

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Fewer bytes than asked where the shard ends, none where it is missing. Raises StorageError."""
        found: dict[int, bytes] = {}
        stops = [span.stop for span in spans]
        failed: Exception | None = None
        for attempt in range(ATTEMPTS):
            waiting = [i for i in range(len(spans)) if i not in found]
            failed = None
            for i, answer in zip(waiting, self._ranges([(spans[i].shard, spans[i].start, stops[i]) for i in waiting]), strict=True):
                if isinstance(answer, bytes):
                    found[i] = self._checked(spans[i], answer)
                    continue
                size = 0 if isinstance(answer, FileNotFoundError) else self.size(spans[i].shard)
                if size is not None and size <= spans[i].start:
                    found[i] = b""
                    continue
                failed = answer
                stops[i] = min(stops[i], size or stops[i])  # what there is of a shard that was cut off
            if failed is None:
                return [found[i] for i in range(len(spans))]
            if attempt + 1 < ATTEMPTS:
                time.sleep(FIRST_DELAY_S * 2**attempt)
        raise StorageError(
            f"{self._root} does not answer after {ATTEMPTS} attempts: {type(failed).__name__}: {failed}; "
            "see to the storage or the network, then resume"
        ) from failed

    def size(self, shard: str) -> int | None:
        try:
            return int(self._fs.size(f"{self._root}/{shard}"))
        except (OSError, TypeError, ValueError):
            return None

    def close(self) -> None:
        """Nothing of ours is open: fsspec keeps its own connections."""

    def _ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | Exception]:
        paths = [f"{self._root}/{shard}" for shard, _, _ in ranges]
        starts, stops = [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
        if self._fs.async_impl:
            answers = self._fs.cat_ranges(paths, starts, stops, on_error="return", batch_size=CONCURRENT)
            return [each if isinstance(each, Exception) else bytes(each) for each in answers]
        with ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(self._range, paths, starts, stops))

    def _range(self, path: str, start: int, stop: int) -> bytes | Exception:
        try:
            return bytes(self._fs.cat_file(path, start=start, end=stop))
        except Exception as error:  # judged by `read`, as those of cat_ranges are
            return error

    def _checked(self, span: Span, answer: bytes) -> bytes:
        if len(answer) > span.stop - span.start:
            raise StorageError(
                f"{self._root}/{span.shard}: asked for {span.stop - span.start} bytes, {len(answer)} came; "
                "the server takes no notice of byte ranges; use one that does, or copy the shards to a disk"
            )
        return answer
