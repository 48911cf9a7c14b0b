"""What lies below one input, wherever that is: listing it, identifying files, reading side-cars, and files for the decoder."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from schemas.candidate import MediaFile
from schemas.verdict import CandidateError, Reason
from stages.storage.entry import Entry
from stages.storage.local import LocalStore, read_file

ROOT = PurePosixPath(".")


class Tree:
    """One input. Paths are relative to it, with POSIX separators; ROOT is the input itself.

    Picklable: a worker gets the location, and what it needs of a file lies in the file's MediaFile.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location = os.fspath(location)
        self._store = LocalStore(Path(self.location))

    def __str__(self) -> str:
        """As a user may see it."""
        return self.location

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
        """The last part of its location."""
        return PurePosixPath(self.location).name

    def entries(self, folder: PurePosixPath) -> list[Entry]:
        """What lies directly below, in no order; nothing where there is no such folder. Raises OSError."""
        return list(self._store.entries(str(folder))) if self.is_dir(folder) else []

    def is_dir(self, path: PurePosixPath) -> bool:
        return self._store.kind(str(path)) == "folder"

    def is_file(self, path: PurePosixPath) -> bool:
        """Whether something is there that is no folder."""
        return self._store.kind(str(path)) == "file"

    def exists(self, path: PurePosixPath) -> bool:
        return self._store.kind(str(path)) is not None

    def identify(self, paths: Iterable[PurePosixPath]) -> list[MediaFile]:
        """The identities of plain files.

        Raises CandidateError for the first that has none: E_UNSAFE_PATH where the name or a link leads out of the input, what it
        names is no plain file, or the name is not UTF-8; NO_FOOTAGE where nothing is there; E_IO, E_OPEN where storage refuses.
        """
        return self._store.identify([str(path) for path in paths])

    def glob(self, pattern: str) -> Iterator[PurePosixPath]:
        """The files whose path matches: `*`, `?` and `[...]` within a name, `**` for any number of folders; each once.

        Hidden names are left out, and `**` does not enter linked folders.
        """
        yield from dict.fromkeys(self._matching(ROOT, PurePosixPath(pattern).parts))

    def _matching(self, folder: PurePosixPath, parts: Sequence[str]) -> Iterator[PurePosixPath]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            if rest:
                yield from self._matching(folder, rest)
            for entry in self._shown(folder):
                if entry.is_folder and not entry.is_link:
                    yield from self._matching(folder / entry.name, parts)
            return
        for entry in self._shown(folder):
            if not fnmatchcase(entry.name, part):
                continue
            if rest and entry.is_folder:
                yield from self._matching(folder / entry.name, rest)
            elif not rest and not entry.is_folder:
                yield folder / entry.name

    def _shown(self, folder: PurePosixPath) -> list[Entry]:
        return sorted((entry for entry in self.entries(folder) if not entry.name.startswith((".", "__MACOSX"))), key=lambda each: each.name)

    def read(self, file: MediaFile, most: int) -> bytes:
        """At most `most` bytes from its start. Raises CandidateError (E_UNSAFE_PATH, E_IO, E_OPEN)."""
        return read_file(self._store.locate(file.path), file.path, most)

    def local(self, files: Sequence[MediaFile]) -> list[Path]:
        """Where the plain files can be read on this machine. Raises CandidateError (E_UNSAFE_PATH, E_IO, E_OPEN)."""
        return [self._store.locate(file.path) for file in files]

    @contextmanager
    def open(self, file: MediaFile) -> Iterator[Any]:
        """Its bytes, which must be those that discovery saw. Raises CandidateError (E_UNSAFE_PATH, E_OPEN; E_IO where it changed)."""
        [path] = self.local([file])
        with path.open("rb", buffering=0) as opened:
            status = os.fstat(opened.fileno())
            check_unchanged(file, status.st_size, status.st_mtime_ns)
            yield opened


def check_unchanged(file: MediaFile, size: int, mtime_ns: int) -> None:
    """Raise CandidateError(E_IO) where a file is no longer the one that discovery saw."""
    if (size, mtime_ns) != (file.size, file.mtime_ns):
        raise CandidateError(
            Reason.E_IO,
            f"{file.path} changed while the run was under way: {file.size} bytes at {file.mtime_ns} ns were "
            f"examined, {size} bytes at {mtime_ns} ns are there now; run the same command again",
        )
