"""Where an output is, in a folder or on an object store, and how a store is asked: several times where it fails, several things at once."""

import errno
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from upath import UPath

from pipeline.executors.call import is_storage_failure

Location: TypeAlias = Path | UPath  # a Path is a file of this machine's, any other UPath an object

# Stores whose objects appear whole. Servers of files (sftp, smb, hdfs) show a file while it is written. S3 is tested; the others are
# fsspec's, by the same calls.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci")
ATTEMPTS = 4  # of ours, at each request; the store's own client has made several by then
FIRST_DELAY_S = 0.5  # before the second attempt; doubles with each further one
_TOGETHER = 32  # requests of the driver
S = TypeVar("S")
T = TypeVar("T")


class OutputFailure(OSError):
    """The output cannot be read or written. It blames no candidate, whose unit is done again."""


class StorageFailure(OutputFailure):
    """A store does not answer, after several attempts. Nothing is known of the file that was asked for; blames nobody."""

    def __init__(self, path: Location, error: BaseException) -> None:
        said = str(error) or type(error).__name__
        super().__init__(errno.EIO, f"{path}: the store does not answer ({said}); see to it, then run the same command again")


def locate(text: str | Path) -> UPath:
    """An output by what a user calls it: a path, made absolute, or the URL of an object store.

    Raises ValueError for what cannot be one, or needs a package that is not installed.
    """
    given = str(text)
    scheme, separator, rest = given.partition("://")
    if not separator:
        return UPath(Path(given).resolve())
    if scheme in ("file", "local"):
        return UPath(Path(rest).resolve())
    url = urlsplit(given)
    if url.username is not None or url.password is not None:
        raise ValueError(f"{scheme}://...@{url.hostname}: give credentials by the environment (AWS_ACCESS_KEY_ID ...), not in the URL")
    if scheme not in OBJECT_STORES:
        raise ValueError(
            f"{given}: {scheme!r} is no object store that this can write to ({', '.join(OBJECT_STORES)}); mount it, and give its path"
        )
    if {"", ".", ".."} & set(rest.rstrip("/").split("/")) or "?" in rest or "#" in rest:
        raise ValueError(f"{given}: give {scheme}://BUCKET/PREFIX without '..', '//', '?' or '#'")
    # What another process wrote must be seen at once. Parquet asks for the ranges that it needs: reading on would cost more.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):  # max_concurrency: what is small is one request, without another for its size
        options |= {"default_cache_type": "none", "max_concurrency": 1}
    try:
        path = UPath(given.rstrip("/"), **options)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise ValueError(f"{given}: cannot be opened ({error}); for s3: uv pip install -e '.[s3]'") from None
    return path


def is_local(path: Location) -> bool:
    return isinstance(path, Path)


def holds(outer: str | Location, inner: str | Location) -> bool:
    """Whether `inner` is `outer` or lies below it: absolute paths, or URLs of one store."""
    first, second = (_comparable(each) for each in (outer, inner))
    return second == first or second.startswith(first.rstrip("/") + "/")


def _comparable(place: str | Location) -> str:
    scheme, separator, rest = str(place).rstrip("/").partition("://")
    same = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs"}
    return f"{same.get(scheme, scheme)}://{rest}" if separator else os.path.abspath(scheme)


def together(call: Callable[[S], T], values: Sequence[S], where: Location) -> list[T]:
    """What `call` says of each. Where that is asked of a store, several are on their way at a time."""
    if isinstance(where, Path) or len(values) < 2:
        return [call(value) for value in values]
    with ThreadPoolExecutor(min(len(values), _TOGETHER)) as pool:
        return list(pool.map(call, values))


def ask(path: UPath, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """What the call says; again after a pause where the store failed rather than refused. Raises StorageFailure, and what it refuses by."""
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:  # every store has its own kinds of them
            if not _passing(error):
                raise
            if attempt == attempts:
                raise StorageFailure(path, error) from error
            time.sleep(FIRST_DELAY_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _passing(error: Exception) -> bool:
    """Whether it may be otherwise a moment later."""
    if isinstance(error, OSError):
        return is_storage_failure(error)
    return not isinstance(error, ValueError | TypeError | LookupError | AttributeError | NotImplementedError | MemoryError)
