"""An input in a folder of this machine. Links are followed where they stay below the folder; nothing is copied."""

import os
import stat
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from schemas.candidate import MediaFile
from schemas.verdict import CandidateError, Reason
from stages.storage.entry import Entry, Kind, Stamp
from stages.storage.paths import check_absent, printable, resolve, storage_error

_FOLDERS = 1024  # that are remembered to lie below the root: files come folder by folder


class LocalStore:
    """Names are relative to `root` with POSIX separators; "." is the root itself, which may be a file (an archive)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = f"{root}{os.sep}"
        self._is_sound = lru_cache(_FOLDERS)(self._check)

    def entries(self, folder: str) -> Iterator[Entry]:
        """What lies directly below. Raises OSError."""
        with os.scandir(self.root / folder) as found:
            for each in found:
                yield Entry(each.name, _is_folder(each), each.is_symlink())

    def kind(self, name: str) -> Kind | None:
        """Links are followed; None where nothing is there, or a link leads nowhere. Raises OSError where storage fails."""
        try:
            mode = os.stat(self.root / name).st_mode
        except ValueError:  # no name of a file
            return None
        except OSError as error:
            check_absent(error, name)
            return None
        return "folder" if stat.S_ISDIR(mode) else "file"

    def identify(self, names: Iterable[str]) -> list[MediaFile]:
        """Plain files in a folder that lies below the root need no look at their whole path: the folder is followed once (a
        scene has hundreds of pictures, a dataset ten thousand scenes). Raises CandidateError for the first bad one, OSError where storage
        fails.
        """
        found = []
        for name in names:
            if name == ".":  # the input is one file
                size, mtime_ns, _ = self.stamp(name)
                found.append(MediaFile(name, size, mtime_ns))
                continue
            folder, _, last = name.rpartition("/")
            try:
                status = os.lstat(self._top + name) if last.isascii() and name[:1] != "/" and self._is_sound(folder) else None
            except (OSError, ValueError):
                status = None  # _identify says what is wrong with it
            if status is None or not stat.S_ISREG(status.st_mode):
                found.append(self._identify(name))
            else:
                found.append(MediaFile(name, status.st_size, status.st_mtime_ns))
        return found

    def _check(self, folder: str) -> bool:
        """Whether the folder lies below the root and is called by a printable name without '..'."""
        return ".." not in PurePosixPath(folder).parts and printable(folder) == folder and self.is_inside(folder)

    def is_inside(self, folder: str) -> bool:
        """Whether the folder lies below the root, links followed."""
        base = os.path.realpath(self.root)
        return os.path.commonpath([base, os.path.realpath(self._top + folder)]) == base

    def _identify(self, name: str) -> MediaFile:
        if printable(name) != name:
            raise CandidateError(Reason.E_UNSAFE_PATH, f"the file name {printable(name)!r} is not UTF-8; rename it")
        inside = not os.path.isabs(name) and ".." not in PurePosixPath(name).parts and "\0" not in name
        if inside and self.kind(name) is None:
            what = "is a link to nothing" if os.path.islink(self.root / name) else "is not in the input folder"
            raise CandidateError(Reason.NO_FOOTAGE, f"{name!r} {what}")
        found = resolve(self.root, name).stat()
        return MediaFile(name, found.st_size, found.st_mtime_ns)

    def locate(self, name: str) -> Path:
        """The plain file's absolute path. Raises CandidateError (E_UNSAFE_PATH, E_IO, E_OPEN)."""
        if name == ".":  # the input is one file, which the user named: a link to it is what is meant
            root = Path(os.path.realpath(self.root))
            return resolve(root.parent, root.name)
        return resolve(self.root, name)

    def stamp(self, name: str) -> Stamp:
        """As the file is now. Raises CandidateError as `locate`."""
        try:
            found = self.locate(name).stat()
        except OSError as error:
            raise storage_error(error, name) from error
        return Stamp(found.st_size, found.st_mtime_ns, "")

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Those bytes, fewer at the end. Raises CandidateError as `locate`."""
        try:
            with self.locate(name).open("rb") as file:
                return os.pread(file.fileno(), stop - start, start)
        except OSError as error:
            raise storage_error(error, name) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        check_absent(error, entry.name)
        return False  # identify says what is wrong with it
