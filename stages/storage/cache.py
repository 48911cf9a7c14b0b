"""Files of an input that this machine does not hold as files: fetched or unpacked, and kept while there is room.

Each process has a folder of its own below the system's temporary one (TMPDIR), removed when the process ends, and swept by the next
one where it could not. Files are called by numbers of ours there; nothing of what an input says chooses where is written.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO

from schemas.candidate import MediaFile
from schemas.verdict import CandidateError, Reason
from stages.storage.archives import unpack
from stages.storage.entry import Stamp
from stages.storage.local import LocalStore
from stages.storage.remote import CONCURRENT, RemoteStore

BUDGET_BYTES = 16 << 30  # ours: what a process keeps; files of one candidate may not take more together
MAX_COPIES = 20_000  # ours: of those that nobody uses, however small they are; each is two entries of the disk and one of the memory
PREFIX = "parallax-inputs-"

_JOIN = 64 << 10  # members that lie as near to each other are read in one request ...
_READ = 8 << 20  # ... of about as many bytes
_LOCK = "lock"


Store = LocalStore | RemoteStore


class Cache:
    """Local copies by input and identity. What was asked for since `release` stays; beyond the budget the rest leaves, oldest first."""

    def __init__(self, budget: int = BUDGET_BYTES) -> None:
        self.budget = budget
        self.folder, self._lock_file = _own_folder()
        self._finalizer = weakref.finalize(self, _remove, self.folder, os.getpid())
        self._known: OrderedDict[tuple[str, MediaFile], Path] = OrderedDict()
        self._held: set[tuple[str, MediaFile]] = set()
        self._bytes = 0
        self._number = 0
        self._lock = threading.RLock()

    def get(self, where: str, store: Store, files: Sequence[MediaFile], most: int | None, hold: bool = True) -> list[Path]:
        """Local copies. where: the input. most: bytes that one file may have; None for no limit but the budget. hold: until `release`.

        Raises CandidateError: E_TOO_BIG past a limit, E_IO where storage fails or a file has changed since it was listed, E_OPEN,
        E_TRUNCATED.
        """
        with self._lock:
            keys = [(where, file) for file in files]
            missing = [key[1] for key in dict.fromkeys(keys) if key not in self._known]
            for file in files:
                if most is not None and file.size > most:
                    said = f"{file.path!r} has {file.size} bytes; at most {most} are fetched (media.max_fetch_mb in the recipe)"
                    raise CandidateError(Reason.E_TOO_BIG, said)
            newly = set(keys) - self._held
            self._held |= newly
            for key in keys:
                if key in self._known:
                    self._known.move_to_end(key)
            try:
                if missing:
                    self._make_room(sum(file.size for file in missing))
                    self._fetch(where, store, missing)
                return [self._known[key] for key in keys]
            finally:
                if not hold:
                    self._held -= newly

    def head(self, where: str, store: Store, file: MediaFile, most: int) -> bytes:
        """The first bytes of a file, from its copy if there is one; else no more than these are fetched, and no copy is made.

        Raises CandidateError as `get`; the checksum of a member is that of the whole, and not looked at.
        """
        with self._lock:
            path = self._known.get((where, file))
            if path is not None:
                with path.open("rb") as copy:
                    return copy.read(most)
        out = BytesIO()
        if file.packed is None:
            out.write(store.read(file.path, 0, min(most, file.size)) if file.size else b"")
        else:
            archive, stop, step = file.packed.archive, _stop(file), min(_READ, most + _JOIN)
            unpack(file, (store.read(archive, at, min(at + step, stop)) for at in range(_start(file), stop, step)), out, most)
        _check(store, file)
        return out.getvalue()[:most]

    def release(self) -> None:
        """What was asked for so far may leave from now on."""
        with self._lock:
            self._held.clear()

    def named(self, text: str) -> str:
        """`text`, in which the names of our copies became those of the input: no message shows where a copy lay."""
        if str(self.folder) in text:
            with self._lock:
                for (_, file), path in self._known.items():
                    text = text.replace(str(path), file.path)
        return text

    def close(self) -> None:
        self._finalizer()
        self._lock_file.close()

    def _make_room(self, size: int) -> None:
        full = self._bytes + size > self.budget
        if full and (held := sum(file.size for where, file in self._held if (where, file) in self._known)) + size > self.budget:
            said = f"the files of one candidate have {held + size} bytes; {self.budget} are kept of fetched ones"
            raise CandidateError(Reason.E_TOO_BIG, f"{said}: unpack the archive, or copy the input to a disk")
        while self._bytes + size > self.budget or len(self._known) >= MAX_COPIES:
            oldest = next((key for key in self._known if key not in self._held), None)
            if oldest is None:
                return
            shutil.rmtree(self._known.pop(oldest).parent, ignore_errors=True)
            self._bytes -= oldest[1].size

    def _fetch(self, where: str, store: Store, files: Sequence[MediaFile]) -> None:
        """All or none of them are known afterwards."""
        paths = {file: self._place(file) for file in files}
        try:
            with ThreadPoolExecutor(CONCURRENT) as pool:
                for _ in pool.map(lambda job: job(), _jobs(store, paths)):
                    pass
        except BaseException as error:
            for path in paths.values():
                shutil.rmtree(path.parent, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = f"{self.folder.parent} is full; make room there, or let TMPDIR name another folder, and run again"
                raise CandidateError(Reason.E_IO, what) from None
            raise
        for file, path in paths.items():
            self._known[where, file] = path
            self._bytes += file.size

    def _place(self, file: MediaFile) -> Path:
        """A new folder of its own, and in it the file's last name, by whose suffix some tell what it is."""
        self._number += 1
        folder = self.folder / f"{self._number:08d}"
        folder.mkdir()
        name = file.path.rpartition("/")[2]
        plain = name if len(os.fsencode(name)) <= 200 and "\0" not in name and name not in ("", ".", "..") else "file"
        return folder / plain


def _jobs(store: Store, paths: "dict[MediaFile, Path]") -> Iterator["_Job"]:
    packed: defaultdict[str, list[MediaFile]] = defaultdict(list)
    for file in paths:
        if file.packed is None:
            yield _Job(store, [file], paths)
        else:
            packed[file.packed.archive].append(file)
    for members in packed.values():
        members.sort(key=lambda file: file.packed.offset if file.packed else 0)
        run: list[MediaFile] = []
        for file in members:
            if run and (_start(file) - _stop(run[-1]) > _JOIN or _stop(file) - _start(run[0]) > _READ):
                yield _Job(store, run, paths)
                run = []
            run.append(file)
        yield _Job(store, run, paths)


def _start(file: MediaFile) -> int:
    assert file.packed is not None, "a member of an archive"
    return file.packed.offset


def _stop(file: MediaFile) -> int:
    assert file.packed is not None, "a member of an archive"
    return file.packed.offset + file.packed.span


class _Job:
    """One file, or members of one archive that lie together; and that none of them has changed since it was listed."""

    def __init__(self, store: Store, files: Sequence[MediaFile], paths: "dict[MediaFile, Path]") -> None:
        self._store, self._files, self._paths = store, files, paths

    def __call__(self) -> None:
        first = self._files[0]
        if first.packed is None:
            assert isinstance(self._store, RemoteStore), "files of this machine are read where they are"
            self._store.download(first.path, first.size, self._paths[first])
        else:
            self._unpack(first.packed.archive)
        _check(self._store, first)

    def _unpack(self, archive: str) -> None:
        start, stop = _start(self._files[0]), _stop(self._files[-1])
        whole = self._store.read(archive, start, stop) if len(self._files) > 1 else None
        for file in self._files:
            begin, end = _start(file), _stop(file)
            pieces = (
                (self._store.read(archive, at, min(at + _READ, end)) for at in range(begin, end, _READ))
                if whole is None
                else [whole[begin - start : end - start]]
            )
            with self._paths[file].open("xb") as out:
                unpack(file, pieces, out)


def _check(store: Store, file: MediaFile) -> None:
    """Raise CandidateError(E_IO) where the file, or the archive that it lies in, has changed since it was listed."""
    name, size = (file.path, file.size) if file.packed is None else (file.packed.archive, file.packed.archive_size)
    seen, now = Stamp(size, file.mtime_ns, file.etag), store.stamp(name)
    if now != seen:
        said = f"{'the archive' if name == '.' else repr(name)} changed since it was listed: {_say(seen)} then, {_say(now)} now"
        raise CandidateError(Reason.E_IO, f"{said}; run the same command again")


def _say(stamp: Stamp) -> str:
    return f"{stamp.size} bytes, {'ETag ' + stamp.etag if stamp.etag else f'{stamp.mtime_ns} ns'}"


_of_process: dict[int, Cache] = {}


def cache() -> Cache:
    """This process's; a fork has one of its own."""
    if os.getpid() not in _of_process:
        _of_process.clear()
        _of_process[os.getpid()] = Cache()
    return _of_process[os.getpid()]


def release() -> None:
    """What this process asked for so far may leave its cache, if it has one."""
    if os.getpid() in _of_process:
        cache().release()


def named(text: str) -> str:
    """See `Cache.named`."""
    return cache().named(text) if os.getpid() in _of_process else text


def sweep_dead() -> None:
    """Remove the folders of this machine's processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if not (folder / _LOCK).exists():
                folder.rmdir()  # its owner, or a sweep, ended between the last two steps of _empty
                continue
            # Anyone may put anything into a temporary folder: a pipe would be waited for.
            with open(os.open(folder / _LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(folder)


def _own_folder() -> tuple[Path, IO[bytes]]:
    """A new folder, locked as long as this process lives; those of dead processes are removed."""
    base = Path(tempfile.gettempdir())
    sweep_dead()
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    lock = (hidden / _LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return hidden.rename(base / hidden.name[1:]), lock  # seen by others only when it is locked


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        _empty(folder)


def _empty(folder: Path) -> None:
    """Remove a cache's folder, its lock last: whoever is killed on the way leaves what the next sweep knows."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        (folder / _LOCK).unlink()
        folder.rmdir()
