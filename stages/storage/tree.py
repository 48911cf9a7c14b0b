"""What lies below one input, wherever that is: listing it, identifying files, reading side-cars, and files for the decoder.

An archive (.zip, .tar) anywhere below is a folder of its name, and so is an input that is one. Its index is read once, where it is
looked into, and never unpacked; archives in archives are not looked into.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from schemas.candidate import ARCHIVES, COMPRESSED, MediaFile, without_suffix
from schemas.verdict import PROVISIONAL, CandidateError, Reason
from stages.storage.archives import Index, Problem, read_index
from stages.storage.cache import cache, release
from stages.storage.entry import Entry
from stages.storage.local import LocalStore
from stages.storage.paths import printable, storage_error
from stages.storage.remote import CONCURRENT, RemoteStore, is_url, shown

ROOT = PurePosixPath(".")

_ARCHIVE = re.compile("(?:" + "|".join(re.escape(suffix) for suffix in (*COMPRESSED, *ARCHIVES)) + ")(?=/|$)", re.IGNORECASE)
_SMALL = 1 << 20  # bytes: files whose first bytes are looked at come whole, if many lie together and they are no larger
_REMEMBERED = 500_000  # members of archives whose index is kept while candidates are looked for


class Tree:
    """One input: a path of this machine or a URL of fsspec's. Paths are relative to it, with POSIX separators; ROOT is itself.

    Picklable: a worker gets the location, and what it needs of a file lies in the file's MediaFile.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        text = os.fspath(location)
        if text.startswith(("file://", "local://")):
            text = text.partition("://")[2]
        self.location = text
        self._remote = RemoteStore(text) if is_url(text) else None
        self._store: LocalStore | RemoteStore = self._remote or LocalStore(Path(text))
        self._indices: OrderedDict[str, Index] = OrderedDict()
        self._problems: dict[str, Problem] = {}  # archives that cannot be looked into
        self._refused: dict[str, list[tuple[str, Problem]]] = {}  # members that lie nowhere, by their archive
        self._told: set[str] = set()  # archives whose problem a candidate has
        self._links: dict[str, Problem] = {}  # that lead to nothing, or to a folder outside

    def __str__(self) -> str:
        """As it may be written down: without credentials."""
        return shown(self.location) if self._remote else self.location

    def __repr__(self) -> str:
        return f"Tree({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and other.location == self.location

    def __hash__(self) -> int:
        return hash(self.location)

    def __reduce__(self) -> tuple[type["Tree"], tuple[str]]:
        return Tree, (self.location,)

    @property
    def name(self) -> str:
        """The last part of its location, of an archive without its suffix."""
        path = urlsplit(self.location).path if self._remote else self.location
        return without_suffix(PurePosixPath(path).name)

    def entries(self, folder: PurePosixPath) -> list[Entry]:
        """What lies directly below, in no order; nothing where there is no such folder. Raises OSError."""
        split = self._split(str(folder))
        if split is None:
            if self._store.kind(str(folder)) != "folder":
                return []
            found = self._store.entries(str(folder))
            return [Entry(each.name, each.is_folder or is_archive(each.name), each.is_link) for each in found]
        index = self._index(split[0])
        if index is None:
            return []
        inside = index.folders.get(split[1])
        if inside is None:
            self._nested(split)
            return []
        return [Entry(name, member is None or is_archive(name)) for name, member in inside.items()]

    def is_dir(self, path: PurePosixPath) -> bool:
        split = self._split(str(path))
        if split is None:
            return self._store.kind(str(path)) == "folder"
        index = self._index(split[0]) if split[1] else None
        return not split[1] or (index is not None and (split[1] in index.folders or (is_archive(split[1]) and self.exists(path))))

    def is_file(self, path: PurePosixPath) -> bool:
        """Whether something is there that is no folder."""
        return self.exists(path) and not self.is_dir(path)

    def exists(self, path: PurePosixPath) -> bool:
        split = self._split(str(path))
        if split is None:
            return self._store.kind(str(path)) is not None
        index = self._index(split[0]) if split[1] else None
        return not split[1] or (index is not None and (split[1] in index.folders or index.find(split[1]) is not None))

    def identify(self, paths: Iterable[PurePosixPath]) -> list[MediaFile]:
        """The identities of plain files.

        Raises CandidateError for the first that has none: E_UNSAFE_PATH where the name or a link leads out of the input, what it
        names is no plain file, or the name is not UTF-8; NO_FOOTAGE where nothing is there; E_IO, E_OPEN where storage refuses;
        what an archive is refused with. Raises OSError where storage fails while an archive's index is read.
        """
        names = [str(path) for path in paths]
        packed = {name: split for name in names if (split := self._split(name)) is not None}
        plain = iter(self._store.identify([name for name in names if name not in packed]))
        return [self._member(name, packed[name]) if name in packed else next(plain) for name in names]

    def require(self, path: PurePosixPath) -> None:
        """Raise the CandidateError that the archive which holds `path` is refused with: it is the caller's row then, and no other's."""
        split = self._split(str(path))
        if split is not None:
            refused = split[0] if self._index(split[0]) is None else self._nested(split)
            if refused in self._problems:
                self._told.add(refused)
                raise CandidateError(*self._problems[refused])

    def unpacked(self, path: PurePosixPath) -> PurePosixPath:
        """What `path` would be if the archive it lies in, or is, were a folder of its name without the suffix."""
        split = self._split(str(path))
        return path if split is None or split[0] == "." else PurePosixPath(without_suffix(split[0]), split[1])

    def unplaced(self) -> list[tuple[str, Problem]]:
        """What was met so far and is in nobody's candidates: archives that cannot be looked into, members and objects that are refused."""
        found = [(name, problem) for name, problem in self._problems.items() if name not in self._told]
        for archive, members in self._refused.items():
            found += [(name if archive == "." else f"{archive}/{name}", problem) for name, problem in members]
        return _told([*found, *(self._remote.refused if self._remote else ())])

    def links(self) -> list[tuple[str, Problem]]:
        """Links that `glob` met and that it cannot follow."""
        return _told(self._links.items())

    def glob(self, pattern: str) -> Iterator[PurePosixPath]:
        """The files whose path matches: `*`, `?` and `[...]` within a name, `**` for any number of folders; each once.

        Hidden names are left out. `**` does not enter linked folders: one of the input is found where it lies, any other is refused.
        """
        given: set[str] = set()
        for path in self._matching(ROOT, PurePosixPath(pattern).parts):
            if (name := str(path)) not in given:
                given.add(name)
                yield path

    def _matching(self, folder: PurePosixPath, parts: Sequence[str]) -> Iterator[PurePosixPath]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            if rest:
                yield from self._matching(folder, rest)
            for entry in self._shown(folder):
                if entry.is_folder and (not entry.is_link or self._is_linked_archive(str(folder / entry.name))):
                    yield from self._matching(folder / entry.name, parts)
            return
        for entry in self._shown(folder):
            if not fnmatchcase(entry.name, part):
                continue
            if rest and entry.is_folder:
                yield from self._matching(folder / entry.name, rest)
            elif not rest and not entry.is_folder:
                yield folder / entry.name

    def _is_linked_archive(self, name: str) -> bool:
        """Of a link that is seen as a folder. A real folder is refused if it lies outside of the input, and else found where it lies."""
        kind = self._store.kind(name)
        if kind is None:
            self._links[name] = Reason.NO_FOOTAGE, f"{name!r} is a link to nothing"
        elif kind == "folder" and isinstance(self._store, LocalStore) and not self._store.is_inside(name):
            why = f"{name!r} is a link to a folder outside of the input; give that folder as an input, or move it here"
            self._links[name] = Reason.E_UNSAFE_PATH, why
        return kind == "file"

    def _shown(self, folder: PurePosixPath) -> list[Entry]:
        return sorted((entry for entry in self.entries(folder) if not entry.name.startswith((".", "__MACOSX"))), key=lambda each: each.name)

    def read(self, file: MediaFile, most: int) -> bytes:
        """At most `most` bytes from its start; no more are fetched. Raises CandidateError (E_UNSAFE_PATH, E_IO, E_OPEN; E_TRUNCATED
        of a member)."""
        if isinstance(self._store, LocalStore) and file.packed is None:
            path = self._store.locate(file.path)
        elif most < file.size:
            return cache().head(self.location, self._store, file, most)
        else:
            [path] = cache().get(self.location, self._store, [file], None, hold=False)
        try:
            with path.open("rb") as opened:
                return opened.read(most)
        except OSError as error:
            raise storage_error(error, file.path) from error

    def heads(self, paths: Sequence[PurePosixPath], most: int) -> list[bytes]:
        """The first bytes of each file of one folder, many at a time where each is a request; b"" where they cannot be read.

        Raises OSError where storage fails.
        """

        def head(path: PurePosixPath) -> bytes:
            try:
                [file] = self.identify([path])
                if self._remote is None or file.packed is not None:
                    return self.read(file, most)
                return self._remote.read(file.path, 0, min(most, file.size)) if file.size else b""
            except CandidateError as problem:
                if problem.reason in PROVISIONAL:  # what they begin with is not known
                    raise OSError(f"{self}: {_run_again(problem)}") from problem
                return b""

        if self._remote is None or not paths or self._split(str(paths[0])) is not None:
            if self._remote is not None:
                with suppress(CandidateError):  # together, in few requests
                    small = [file for file in self.identify(paths) if file.size <= _SMALL]
                    cache().get(self.location, self._remote, small, None, hold=False)
            return [head(path) for path in paths]
        with ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(head, paths))

    def local(self, files: Sequence[MediaFile], most: int | None = None) -> list[Path]:
        """Where the plain files can be read on this machine: where they are, or copies, which stay until the next `release`.

        most: bytes that may be fetched for one file. Raises CandidateError (E_UNSAFE_PATH, E_IO, E_OPEN; E_TOO_BIG past a limit,
        E_TRUNCATED of a member).
        """
        if isinstance(self._store, LocalStore):
            fetched = [file for file in files if file.packed is not None]
            copies = iter(cache().get(self.location, self._store, fetched, most) if fetched else ())
            return [self._store.locate(file.path) if file.packed is None else next(copies) for file in files]
        return cache().get(self.location, self._store, files, most)

    def release(self) -> None:
        """Copies that were made so far may be removed from now on."""
        release()

    def forget(self) -> None:
        """What was listed so far: candidates have what is needed of it. Asked again, it is listed again."""
        self._indices.clear()
        if self._remote is not None:
            self._remote.forget()

    @contextmanager
    def open(self, file: MediaFile) -> Iterator[Any]:
        """Its bytes, which must be those that discovery saw. Raises CandidateError (E_UNSAFE_PATH, E_OPEN; E_IO where it changed)."""
        try:
            [path] = self.local([file])
            with path.open("rb", buffering=0) as opened:
                if self._remote is None and file.packed is None:
                    status = os.fstat(opened.fileno())
                    check_unchanged(file, status.st_size, status.st_mtime_ns)
                yield opened
        finally:
            self.release()

    def _split(self, path: str) -> tuple[str, str] | None:
        """(the archive, the path in it) of what an archive holds, or of the archive itself with ""; None for all else."""
        if self._is_archive:
            return ".", "" if path == "." else path
        for match in _ARCHIVE.finditer(path):
            archive = path[: match.end()]
            if self._store.kind(archive) == "file":
                return archive, path[match.end() + 1 :]
        return None

    @property
    def _is_archive(self) -> bool:
        """Whether the input itself is one."""
        if "_root_is_archive" not in self.__dict__:
            name = PurePosixPath(urlsplit(self.location).path if self._remote else self.location).name
            self.__dict__["_root_is_archive"] = is_archive(name) and self._store.kind(".") == "file"
        return bool(self.__dict__["_root_is_archive"])

    def _index(self, archive: str) -> Index | None:
        """None for one that cannot be looked into, of which `_problems` says why. Raises OSError where storage fails."""
        if archive in self._indices:
            self._indices.move_to_end(archive)
            return self._indices[archive]
        if archive in self._problems:
            return None
        try:
            [file] = self._store.identify([archive])
            if archive == ".":
                file = MediaFile(".", file.size, file.mtime_ns, file.etag)
            index = read_index(self._file_name(file), lambda start, stop: self._store.read(archive, start, min(stop, file.size)))
            index.archive = file
        except CandidateError as problem:
            if problem.reason in PROVISIONAL:  # what the archive holds is not known: its members must not count as gone
                raise OSError(f"{self}: {_run_again(problem)}") from problem
            self._problems[archive] = problem.reason, problem.message
            return None
        self._refused[archive] = index.refused
        self._indices[archive] = index
        while len(self._indices) > 1 and sum(each.members for each in self._indices.values()) > _REMEMBERED:
            self._indices.popitem(last=False)
        return index

    def _file_name(self, archive: MediaFile) -> MediaFile:
        """With the name that says what kind of archive it is."""
        name = PurePosixPath(urlsplit(self.location).path if self._remote else self.location).name
        return MediaFile(name, archive.size, archive.mtime_ns, archive.etag) if archive.path == "." else archive

    def _member(self, path: str, split: tuple[str, str]) -> MediaFile:
        self.require(PurePosixPath(path))
        index = self._indices[split[0]]
        member = index.find(split[1])
        if member is None:
            what = "is a folder of its archive" if split[1] in index.folders else "is not in its archive"
            raise CandidateError(Reason.NO_FOOTAGE, f"{path!r} {what}")
        return index.file(path, member)

    def _nested(self, split: tuple[str, str]) -> str:
        """The archive in the archive that a path leads into, which is a problem from now on; "" for none."""
        index = self._indices[split[0]]
        for match in _ARCHIVE.finditer(split[1]):
            inner = split[1][: match.end()]
            if index.find(inner) is not None:
                name = inner if split[0] == "." else f"{split[0]}/{inner}"
                why = f"{name!r} is an archive in an archive, which is not opened; unpack the outer one"
                self._problems.setdefault(name, (Reason.NO_FOOTAGE, why))
                return name
        return ""


def _told(found: Iterable[tuple[str, Problem]]) -> list[tuple[str, Problem]]:
    """Sorted, in names and words that a table can hold."""
    return sorted((printable(name), (reason, printable(message))) for name, (reason, message) in found)


def is_archive(name: str) -> bool:
    """Whether a file of that name is seen as a folder. One that is compressed as a whole is, and refused where it is looked into."""
    return name.lower().endswith((*ARCHIVES, *COMPRESSED))


def _run_again(problem: CandidateError) -> str:
    return problem.message if "run again" in problem.message else f"{problem.message}; run the same command again"


def check_unchanged(file: MediaFile, size: int, mtime_ns: int) -> None:
    """Raise CandidateError(E_IO) where a file is no longer the one that discovery saw."""
    if (size, mtime_ns) != (file.size, file.mtime_ns):
        raise CandidateError(
            Reason.E_IO,
            f"{file.path} changed while the run was under way: {file.size} bytes at {file.mtime_ns} ns were "
            f"examined, {size} bytes at {mtime_ns} ns are there now; run the same command again",
        )
