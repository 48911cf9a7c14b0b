"""Reading an output folder's manifest through fsspec, a few columns and a few thousand rows at a time.

`pipeline.auditing.folder` reads local folders whole; here the folder may be an object store or a plain web server, and a
sample may have 630 camera pairs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.typed import object_from_json

_ROWS = 4096  # rows at a time: with 630 pairs each some 100 MB


class CatalogError(ValueError):
    """The location, selection or split cannot be used. The message says what was looked for and what there is."""


class Manifest:
    """The files of one output folder that training reads before its first sample."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/") or "/"
        try:
            self._fs, root = fsspec.core.url_to_fs(location)
        except (ImportError, ValueError, OSError) as error:
            raise CatalogError(f"{location}: cannot be opened ({error}); give a folder or a URL that fsspec knows") from None
        self._root = str(root).rstrip("/")
        protocol = self._fs.protocol
        # A web server has no folders to list; the parts are numbered without gaps (pipeline.tables), so they are counted.
        self._listed = not {"http", "https"} & set([protocol] if isinstance(protocol, str) else protocol)

    def text(self, *names: str) -> str | None:
        """A text file below the folder, or None where there is none. Raises CatalogError when it cannot be read as UTF-8."""
        data = self.data(*names)
        with _reading(self._path(*names)):
            return None if data is None else data.decode("utf-8")

    def data(self, *names: str) -> bytes | None:
        """A file below the folder, or None where there is none. Raises CatalogError when it cannot be read."""
        path = self._path(*names)
        with _reading(path):
            try:
                return bytes(self._fs.cat_file(path))
            except (FileNotFoundError, IsADirectoryError):
                return None

    def run(self) -> dict[str, Any]:
        """run.json, or an empty mapping where there is none."""
        text = self.text("run.json")
        try:
            return object_from_json(text or "{}")
        except ValueError as error:
            raise CatalogError(f"{self._path('run.json')}: cannot be read as JSON ({error})") from None

    def names(self, folder: str, suffix: str) -> list[str]:
        """File names of a folder without the suffix, sorted; empty where there is no such folder or it cannot be listed."""
        if not self._listed:
            return []
        with _reading(self._path(folder)):
            try:
                self._fs.invalidate_cache(self._path(folder))  # what a run has written since is there
                found = [str(path).rsplit("/", 1)[-1] for path in self._fs.ls(self._path(folder), detail=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix) and not name.startswith("."))

    def parts(self, table: str) -> list[str]:
        """The table's Parquet files. Raises CatalogError where there are none."""
        if self._listed:
            parts = [self._path("manifest", table, f"{name}.parquet") for name in self.names(f"manifest/{table}", ".parquet")]
        else:
            parts = list(self._counted(table))
        if not parts:
            where = "" if self._listed else " (a web server must serve manifest/*/part-00000.parquet and answer range requests)"
            raise CatalogError(
                f"{self.location}: holds no manifest/{table}/*.parquet{where}; give the --output folder of a finished pipeline.curate run"
            )
        return parts

    def _counted(self, table: str) -> Iterator[str]:
        number = 0
        while self._fs.exists(path := self._path("manifest", table, f"part-{number:05d}.parquet")):
            yield path
            number += 1

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The chosen leaf columns ("pairs.list.element.a") of every row. Raises CatalogError for an unreadable part."""
        for part in self.parts(table):
            with _reading(part), self._fs.open(part, "rb") as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
                present = {file.schema.column(i).path for i in range(len(file.schema))}
                if missing := [name for name in columns if name not in present]:
                    raise CatalogError(f"{part}: has no column {', '.join(missing)}; curate again with this version")
                yield from file.iter_batches(batch_size=_ROWS, columns=list(columns))

    def _path(self, *names: str) -> str:
        return "/".join([self._root, *names])


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Every storage backend raises its own kinds of errors: all of them mean that this path cannot be read."""
    try:
        yield
    except (CatalogError, MemoryError):
        raise
    except Exception as error:
        raise CatalogError(f"{path}: cannot be read ({str(error) or type(error).__name__})") from None
