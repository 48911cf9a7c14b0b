"""The index of a zip or a tar as a tree of folders, and one member's bytes out of it. Nothing is ever extracted under a name of theirs.

What is refused, a member (it lies in its folder, and whoever asks for it is told) or, where it has no place in any folder, by a row of
its own: absolute names, "..", "\\\\", drives, NUL, names that are not UTF-8 or used twice, links, devices and pipes, encrypted ones, other
methods than stored and deflate, sizes that cannot be, members that overlap. Formats: PKWARE's APPNOTE.TXT 6.3.9; POSIX pax.
"""

import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from schemas.candidate import COMPRESSED, MediaFile, Packed
from schemas.verdict import CandidateError, Reason
from stages.storage.paths import printable

# All ours. Python keeps about 0.7 kB of a zip's member while it reads the index, of which 47 bytes are the least: half a gigabyte.
MAX_INDEX_BYTES = 32 << 20
MAX_MEMBERS = 400_000
MAX_REFUSED = 100  # members that have no place: more of them, and the archive is none of a dataset
MAX_NAME = 1024  # letters
MAX_RATIO = 1032  # deflate cannot do more (zlib's technical details)

_WINDOW = 64 << 10  # bytes read at once while an index is looked for; a zip's comment may be as long
_HEADER = struct.Struct("<4s5H3I2H")  # of a zip's member
_LONGEST_HEADER = _HEADER.size + 2 * 0xFFFF
_DRIVE = re.compile(r"[A-Za-z]:")
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, struct.error, EOFError, NotImplementedError, ValueError, OverflowError, IndexError,
    RecursionError,
)  # fmt: skip

Read = Callable[[int, int], bytes]  # (start, stop) -> those bytes; fewer at the end
Problem = tuple[Reason, str]


class Member(NamedTuple):
    """One file of an archive; see `Packed`. problem: why it is refused."""

    size: int
    offset: int
    span: int
    stored: int
    method: int
    crc: int | None
    problem: Problem | None


@dataclass
class Index:
    """folders: path -> name -> what lies there, None for a folder; "" is the archive itself. refused: members that lie nowhere."""

    archive: MediaFile
    folders: dict[str, dict[str, Member | None]] = field(default_factory=lambda: {"": {}})
    refused: list[tuple[str, Problem]] = field(default_factory=list)
    members: int = 0

    def find(self, path: str) -> Member | None:
        folder, _, name = path.rpartition("/")
        return self.folders.get(folder, {}).get(name)

    def file(self, path: str, member: Member) -> MediaFile:
        """The member's identity. path: below the input's root. Raises CandidateError for one that is refused."""
        if member.problem is not None:
            raise CandidateError(member.problem[0], f"{path!r} {member.problem[1]}")
        where = self.archive
        packed = Packed(where.path, where.size, member.offset, member.span, member.stored, member.method, member.crc)
        return MediaFile(path, member.size, where.mtime_ns, where.etag, packed)

    def add(self, name: str, member: Member | None) -> None:
        """member None: a folder. Raises CandidateError where the archive has too much in it that is refused, or too many members."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise CandidateError(Reason.E_TOO_BIG, f"{self.archive.path!r} has more than {MAX_MEMBERS} members; split it")
        parts, why = safe_parts(name)
        if why is not None or not parts:
            if why is not None:
                self.refuse(name, why)
            return
        for i in range(1, len(parts)):
            if not self._folder("/".join(parts[:i])):
                return self.refuse(name, "lies in what is a file of the archive")
        path = "/".join(parts)
        if member is None:
            if not self._folder(path):
                self.refuse(name, "is a folder and a file of the archive")
            return
        inside = self.folders["/".join(parts[:-1])]
        known = inside.get(parts[-1])
        if parts[-1] not in inside:
            inside[parts[-1]] = member
        elif known is None:
            self.refuse(name, "is a folder and a file of the archive")
        else:  # tools disagree on which of them counts
            inside[parts[-1]] = known._replace(problem=(Reason.E_OPEN, "comes twice in its archive; pack it anew, each file once"))

    def _folder(self, path: str) -> bool:
        """Make it, unless a file has the name. Its parent is there."""
        if path in self.folders:
            return True
        parent, _, name = path.rpartition("/")
        if name in self.folders[parent]:
            return False
        self.folders[parent][name] = None
        self.folders[path] = {}
        return True

    def refuse(self, name: str, why: str) -> None:
        if len(self.refused) == MAX_REFUSED:
            what = f"more than {MAX_REFUSED} members of {self.archive.path!r} are refused, the first: {self.refused[0][0]!r}"
            raise CandidateError(Reason.E_UNSAFE_PATH, f"{what} {self.refused[0][1][1]}")
        self.refused.append((printable(name[:200].replace("\0", "\\0")), (Reason.E_UNSAFE_PATH, why)))


def safe_parts(name: str) -> tuple[list[str], str | None]:
    """The parts of a name below a folder, or why it is refused. A leading "./" is left out."""
    while name.startswith("./"):
        name = name[2:]
    parts = name.removesuffix("/").split("/")
    if name in ("", "."):
        return [], None
    if "\0" in name or "\\" in name or name.startswith("/") or _DRIVE.match(name) or {"", ".", ".."} & set(parts):
        return [], "is refused: a member's name is relative, without '..', '//', backslashes, drives and NUL"
    if printable(name) != name:
        return [], "is refused: its name is not UTF-8"
    return (parts, None) if len(name) <= MAX_NAME else ([], f"is refused: its name has more than {MAX_NAME} letters")


def read_index(archive: MediaFile, read: Read) -> Index:
    """Raises CandidateError: E_OPEN for what is no such archive, E_TRUNCATED, E_TOO_BIG, E_UNSAFE_PATH; and what `read` raises."""
    name = archive.path.lower()
    if name.endswith(COMPRESSED):
        message = f"{archive.path!r} is compressed as a whole, so no member can be read alone; unpack it to a .tar, or zip it"
        raise CandidateError(Reason.E_OPEN, message)
    index, file = Index(archive), _Ranges(read, archive.size)
    try:
        for member_name, member in (_zip if name.endswith(".zip") else _tar)(file, archive.size):
            index.add(member_name, member)
    except _DAMAGED as error:
        start = read(0, 512)
        known = start[:4] in (b"PK\3\4", b"PK\5\6") if name.endswith(".zip") else start[257:262] == b"ustar"
        reason = Reason.E_TRUNCATED if known else Reason.E_OPEN
        raise CandidateError(reason, f"{archive.path!r} is cut off, damaged or no such archive: {str(error)[:200] or 'empty'}") from None
    except _TooMuch:
        raise CandidateError(Reason.E_TOO_BIG, f"the index of {archive.path!r} has more than {MAX_INDEX_BYTES} bytes; split it") from None
    return index


class _TooMuch(Exception):
    pass


class _Ranges(io.RawIOBase):
    """What zipfile and tarfile read from: ranges of a file, of which a window is remembered."""

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size, self._at = read, size, 0
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError("a position before the start")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop - self._at > MAX_INDEX_BYTES:
            raise _TooMuch
        found = self._range(self._at, stop) if stop > self._at else b""
        self._at += len(found)
        return found

    def _range(self, start: int, stop: int) -> bytes:
        for first, window in self._windows.items():
            if first <= start and stop <= first + len(window):
                return window[start - first : stop - first]
        first = max(0, min(start, self._size - _WINDOW))  # the end of a zip is read from its end on
        window = self._read(first, max(stop, first + _WINDOW))
        if len(window) <= _WINDOW:
            self._windows[first] = window
            if len(self._windows) > 4:
                self._windows.popitem(last=False)
        return window[start - first : stop - first]


def _zip(file: _Ranges, size: int) -> Iterator[tuple[str, Member | None]]:
    with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        end = archive.start_dir
    if len(infos) > MAX_MEMBERS:
        raise _TooMuch
    starts = [info.header_offset for info in infos] + [end]
    least = [info.header_offset + _HEADER.size + _name_bytes(info) + info.compress_size for info in infos]
    for i, info in enumerate(infos):
        if info.orig_filename.endswith("/") and info.file_size == 0:
            yield _name(info), None
            continue
        overlaps = least[i] > starts[i + 1] or (i > 0 and least[i - 1] > starts[i])
        span = max(0, min(starts[i + 1], starts[i] + _LONGEST_HEADER + info.compress_size) - starts[i])
        problem = _zip_problem(info, overlaps, starts[i] < 0 or least[i] > end)
        yield _name(info), Member(info.file_size, starts[i], span, info.compress_size, info.compress_type, info.CRC, problem)


def _name(info: zipfile.ZipInfo) -> str:
    """As it was meant: names without the mark of UTF-8 are code page 437 (APPNOTE, appendix D), but tools write UTF-8 there as well."""
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def _name_bytes(info: zipfile.ZipInfo) -> int:
    return len(info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace"))


def _zip_problem(info: zipfile.ZipInfo, overlaps: bool, outside: bool) -> Problem | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return Reason.E_UNSAFE_PATH, "is refused: it is no plain file of its archive but a link, a folder with content, a pipe or a device"
    if info.flag_bits & 0x2041:
        return Reason.E_OPEN, "is encrypted in its archive; pack it without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Reason.E_OPEN, f"is packed by method {info.compress_type}; stored (0) and deflate (8) are read: pack it anew"
    if outside:
        return Reason.E_TRUNCATED, "does not lie within its archive, which is cut off or damaged"
    if overlaps:
        return Reason.E_OPEN, "shares bytes with another member of its archive, as only bombs do"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return Reason.E_TRUNCATED, f"is stored with {info.compress_size} bytes, its archive says {info.file_size}"
    if info.file_size > (info.compress_size + 16) * MAX_RATIO:
        return Reason.E_TOO_BIG, f"promises {info.file_size} bytes of {info.compress_size}; deflate makes at most {MAX_RATIO} of one"
    return None


def _tar(file: _Ranges, size: int) -> Iterator[tuple[str, Member | None]]:
    with tarfile.TarFile(fileobj=file, mode="r", errors="surrogateescape") as archive:  # type: ignore[arg-type]
        before = -1
        while (info := archive.next()) is not None:
            if archive.offset <= before or info.size < 0:
                raise tarfile.ReadError(f"the header at byte {before} leads back")
            before = archive.offset
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                yield info.name, None
                continue
            problem: Problem | None = None
            if info.issparse() or not info.isreg():
                problem = (Reason.E_UNSAFE_PATH, "is refused: it is no plain file of its archive but a link, a pipe, a device, or sparse")
            elif info.offset_data + info.size > size:
                raise tarfile.ReadError(f"{printable(info.name)!r:.100} ends behind the end")
            yield info.name, Member(info.size, info.offset_data, info.size, info.size, 0, None, problem)
        file.seek(archive.offset)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"no mark of the end at byte {archive.offset}")


def unpack(file: MediaFile, pieces: Iterable[bytes], out: BinaryIO, most: int | None = None) -> None:
    """Write a member's bytes. pieces: those of its span, in order. most: end once so many are written, which are not checked then.

    Never writes more than `file.size`, however much more would come. Raises CandidateError: E_TRUNCATED where header, length or checksum
    are not what the index says, E_TOO_BIG where more would come.
    """
    packed = file.packed
    assert packed is not None, "a member of an archive"
    rest = _body(file, packed, iter(pieces))
    if packed.method == zipfile.ZIP_DEFLATED:
        rest = _inflated(file, rest)
    written = crc = 0
    for piece in rest:
        written += len(piece)
        if written > file.size:
            raise CandidateError(Reason.E_TOO_BIG, f"{file.path!r} unpacks to more than the {file.size} bytes that its archive promises")
        crc = zlib.crc32(piece, crc)
        out.write(piece)
        if most is not None and most <= written < file.size:
            return
    if written != file.size:
        raise CandidateError(Reason.E_TRUNCATED, f"{file.path!r} unpacks to {written} bytes; its archive promises {file.size}")
    if packed.crc is not None and crc != packed.crc:
        what = f"the checksum is {crc:08x}, not {packed.crc:08x}"
        raise CandidateError(Reason.E_TRUNCATED, f"{file.path!r} is damaged in its archive: {what}")


def _body(file: MediaFile, packed: Packed, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The stored bytes, without the header that a zip's member has before them."""
    skip = 0
    head = b""
    if packed.crc is not None:
        while len(head) < _HEADER.size and (piece := next(pieces, b"")):
            head += piece
        with suppress(struct.error):
            magic, _, flags, method, _, _, _, _, _, name, extra = _HEADER.unpack_from(head)
            skip = _HEADER.size + name + extra if magic == b"PK\3\4" and method == packed.method and not flags & 1 else 0
        if not skip or skip + packed.stored > packed.span:
            raise CandidateError(Reason.E_TRUNCATED, f"{file.path!r} is not at byte {packed.offset} of its archive, which is damaged")
    left = packed.stored
    for piece in _chain(head, pieces):
        body, skip = piece[skip:], max(0, skip - len(piece))
        yield body[:left]
        left -= min(left, len(body))


def _chain(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from pieces


def _inflated(file: MediaFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
    machine: Any = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            while piece and not machine.eof:
                yield machine.decompress(piece, 1 << 20)
                piece = machine.unconsumed_tail
        while not machine.eof and (more := machine.decompress(machine.unconsumed_tail, 1 << 20)):
            yield more
    except zlib.error as error:
        raise CandidateError(Reason.E_TRUNCATED, f"{file.path!r} is damaged in its archive: {error}") from None
    if not machine.eof:
        raise CandidateError(Reason.E_TRUNCATED, f"{file.path!r} is cut off in its archive")
