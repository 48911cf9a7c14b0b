"""Files of an output, in a folder or on an object store: written whole or not at all.

In a folder: temporary file beside the final name, flush, fsync, rename, fsync of the folder. On an object store: one PUT, or an
upload in pieces that becomes an object when it is completed. What a reader finds under its final name is complete, whenever a run
was killed. Credentials, endpoints and other settings of a store come from the environment (AWS_*, FSSPEC_*) and are written nowhere.
"""

import errno
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from pipeline.location import Location, StorageFailure, ask
from schemas.typed import from_json

TEMPORARY = ".tmp-"  # prefix of files that a killed run may leave; `sweep` removes them

_PIECE = 16 << 20  # of an upload: a shard may have 10,000, and each is held in memory
_AHEAD = 8 << 20  # bytes that are read at once where more will be asked for
T = TypeVar("T")


@contextmanager
def atomic_file(path: Location) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends without an exception, and never in part."""
    if isinstance(path, Path):
        with _renamed(path) as file:
            yield file
    else:
        with _uploaded(path) as file:
            yield file


@contextmanager
def _renamed(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(6)}-{path.name[:80]}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _uploaded(path: UPath) -> Iterator[BinaryIO]:
    """An upload in pieces, completed at the end and given up when the block raises."""
    upload = _Upload(path)
    try:
        yield cast(BinaryIO, upload)
        upload.complete()
    except BaseException:
        upload.give_up()
        raise


class _Upload(io.RawIOBase):
    def __init__(self, path: UPath) -> None:
        self._path = path
        self._file: Any = ask(path, lambda: path.fs.open(path.path, "wb", block_size=_PIECE, autocommit=False))

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._once(lambda: self._file.write(data))

    def complete(self) -> None:
        self._once(self._file.close)
        self._once(self._file.commit)

    def _once(self, call: Callable[[], T]) -> T:
        """Not asked again: how much was taken is not known. The work as a whole is done again."""
        try:
            return ask(self._path, call, attempts=1)
        except FileNotFoundError as error:  # the upload is gone, or was completed by a request whose answer was lost
            raise StorageFailure(self._path, error) from error

    def give_up(self) -> None:
        self._file.closed = True  # else it would be completed when it is collected
        with suppress(Exception):  # what is left in the store is no object, and `sweep` looks for it
            self._file.discard()


def write_bytes(path: Location, data: bytes) -> None:
    if isinstance(path, Path):
        with _renamed(path) as file:
            file.write(data)
    else:
        ask(path, lambda: path.fs.pipe_file(path.path, data))


def write_json(path: Location, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_table(path: Location, table: pa.Table) -> None:
    """Parquet, zstd, the same bytes for the same table."""
    write_row_groups(path, table.schema, (table,))


def write_row_groups(path: Location, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """The same of a table that comes in pieces, each a row group that is let go before the next is asked for."""
    if isinstance(path, Path):
        with _renamed(path) as file:
            _write_parquet(file, schema, tables)
    else:
        buffer = io.BytesIO()
        _write_parquet(buffer, schema, tables)
        write_bytes(path, buffer.getvalue())


def _write_parquet(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=65536)
            del table  # before the next one is made
            pa.default_memory_pool().release_unused()  # Arrow would keep what the largest one has needed


class LateNamed:
    """A file that gets its name in `folder` once it is whole.

    For an object store, which cannot rename, it waits on this machine's disk (TMPDIR): its whole size for as long as it is written.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._temporary: Path | None = None
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
            self._temporary = folder / f"{TEMPORARY}{secrets.token_hex(12)}"
            self.file: BinaryIO = self._temporary.open("xb")
        else:
            self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115

    def commit(self, name: str) -> None:
        self.file.flush()
        if self._temporary is not None and isinstance(self._folder, Path):
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._temporary, self._folder / name)
            sync_folder(self._folder)
            return
        self.file.seek(0)
        if os.fstat(self.file.fileno()).st_size <= _PIECE:
            write_bytes(self._folder / name, self.file.read())
        else:
            with atomic_file(self._folder / name) as upload:
                while piece := self.file.read(1 << 20):
                    upload.write(piece)
        self.file.close()

    def abandon(self) -> None:
        """Leave nothing, unless it was committed."""
        self.file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def read_bytes(path: Location) -> bytes:
    """Raises FileNotFoundError, StorageFailure."""
    return path.read_bytes() if isinstance(path, Path) else ask(path, lambda: bytes(path.fs.cat_file(path.path)))


def read_json(path: Location) -> Any:
    """Raises FileNotFoundError, StorageFailure, and ValueError for what is no JSON in UTF-8."""
    return from_json(read_bytes(path).decode("utf-8"))


def read_range(path: Location, start: int, size: int) -> bytes:
    """Fewer bytes where the file ends before. Raises FileNotFoundError, StorageFailure."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    if size <= 0:
        return b""
    try:
        return ask(path, lambda: bytes(path.fs.cat_file(path.path, start=start, end=start + size)))
    except FileNotFoundError:
        raise
    except (OSError, ValueError):  # stores refuse a range that begins beyond the end
        if (there := size_of(path)) is not None and start >= there:
            return b""
        raise


def open_file(path: Location) -> BinaryIO:
    """For reading, with seeks. Raises FileNotFoundError, StorageFailure, now or when it is read."""
    if isinstance(path, Path):
        return path.open("rb")
    size = size_of(path)
    if size is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return cast(BinaryIO, io.BufferedReader(_Ranges(path, size), min(_AHEAD, max(size, 1))))


def parquet_source(path: Location) -> Path | BinaryIO:
    """What Arrow reads a table from. An object is fetched whole: a run may replace it, and ranges of two tables make none."""
    return path if isinstance(path, Path) else io.BytesIO(read_bytes(path))


class _Ranges(io.RawIOBase):
    """An object, read where one asks for it."""

    def __init__(self, path: UPath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = read_range(self._path, self._at, min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def copy(path: Location, target: Location) -> None:
    """The same file again: a link where the file system has them, within one store by the store itself, else its bytes."""
    if isinstance(path, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
            sync_folder(target.parent)
            return
        except OSError:  # another file system, or one without links
            pass
    elif not isinstance(path, Path) and not isinstance(target, Path) and path.fs == target.fs:
        ask(target, lambda: path.fs.cp_file(path.path, target.path))
        return
    with open_file(path) as source, atomic_file(target) as file:
        shutil.copyfileobj(source, file, 1 << 20)


def size_of(path: Location) -> int | None:
    """In bytes; None where there is no such file. Raises StorageFailure."""
    try:
        if isinstance(path, Path):
            return path.stat().st_size if path.is_file() else None
        found = ask(path, lambda: path.fs.info(path.path))
    except FileNotFoundError:
        return None
    return int(found["size"]) if found["type"] == "file" else None


def names(folder: Location, suffix: str = "", *, below: bool = False) -> list[str]:
    """Files of a folder, sorted; none where there is no such folder. below: those of its folders too, as a/b. Raises StorageFailure.

    One request for a thousand.
    """
    if isinstance(folder, Path):
        files = (path for path in (folder.rglob("*") if below else folder.glob("*")) if path.is_symlink() or not path.is_dir())
        return sorted(name for path in files if (name := path.relative_to(folder).as_posix()).endswith(suffix))
    root, depth = folder.path.rstrip("/") + "/", None if below else 1
    try:
        found = ask(folder, lambda: folder.fs.find(root, maxdepth=depth) if below else folder.fs.ls(root, detail=True))
    except FileNotFoundError:
        return []
    keys = found if below else [each["name"] for each in found if each["type"] == "file"]
    return sorted(name for key in keys if (name := key.lstrip("/").removeprefix(root.lstrip("/"))) and name.endswith(suffix))


def is_folder(path: Location) -> bool:
    """Whether something lies there. Raises StorageFailure."""
    return path.is_dir() if isinstance(path, Path) else ask(path, lambda: bool(path.fs.isdir(path.path)))


def make_folder(path: Location) -> None:
    """Where there are folders: an object store needs none, and creating a bucket is not ours to do."""
    if isinstance(path, Path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Location) -> None:
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        ask(path, lambda: path.fs.rm_file(path.path))


def sweep(folder: Location) -> None:
    """Remove what killed runs left half-written directly in the folder: temporary files, or uploads to S3 that nobody will complete."""
    if isinstance(folder, Path):
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
    elif hasattr(folder.fs, "call_s3"):
        with suppress(OSError, NotImplementedError):  # not every server, and not everybody, may list them
            _sweep_uploads(folder)


def _sweep_uploads(folder: UPath) -> None:
    bucket, _, prefix = folder.path.strip("/").partition("/")
    start, page = f"{prefix}/" if prefix else "", dict[str, str]()
    while True:
        found = ask(folder, partial(folder.fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=start, **page), attempts=1)
        for each in found.get("Uploads", ()):
            if "/" not in each["Key"][len(start) :]:  # else another output's, that lies below
                folder.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
        if not found.get("IsTruncated"):
            return
        page = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}


def stable_hash(value: Any) -> str:
    """Hex sha256 of a JSON-ready value, independent of key order."""
    return sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def sync_folder(folder: Path) -> None:
    """Make renames in the folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
