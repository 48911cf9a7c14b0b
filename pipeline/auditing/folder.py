"""Reading an output folder: its manifest tables and run.json."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, PyFileSystem
from upath import UPath

from pipeline.location import Location
from pipeline.store import is_folder, names, parquet_source, read_json, size_of
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.scores import SCORES
from schemas.verdict import Reason
from stages.stage import Limit

TableName = Literal["samples", "shards", "units"]

TABLES: dict[str, pa.Schema] = {"samples": SAMPLES, "shards": SHARDS, "units": UNITS}

_RUN: dict[str, type] = {"recipe": dict, "inputs": dict, "limits": dict, "error_budget": dict, "state": str}


def _is_recipe(recipe: dict[str, Any]) -> bool:
    """As far as it is shown; what it binds to is read by schemas.recipe."""
    sources = recipe.get("sources", {})
    stages = (
        [each.get("stages", []) if isinstance(each, dict) else None for each in sources.values()] if isinstance(sources, dict) else [None]
    )
    return all(isinstance(each, list) and all(isinstance(stage, dict | str) for stage in each) for each in stages)


def _is_budget(budget: dict[str, Any]) -> bool:
    """Empty where nothing was judged."""
    numbers = [budget.get(name) for name in ("limit", "errors", "judged")]
    return not budget or (
        all(isinstance(each, int | float) and 0 <= each < 1 << 53 for each in numbers) and isinstance(budget.get("exceeded"), bool)
    )


_SOUND: dict[str, Callable[[Any], bool]] = {
    "recipe": _is_recipe,
    "inputs": lambda inputs: all(isinstance(root, str) for root in inputs.values()),
    "error_budget": _is_budget,
}


class OutputError(Exception):
    """The folder is no output of `pipeline.curate`, or cannot be read as one. The message says what was looked for."""


class _Objects(FSSpecHandler):  # type: ignore[misc]
    """Arrow's way to the objects below a URL."""

    def __init__(self, root: UPath) -> None:
        super().__init__(root.fs)
        self._root = root

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(parquet_source(self._root.with_segments(path)), mode="r")


class OutputFolder:
    """One output folder of `pipeline.curate`. Tables are opened on demand and may be read column by column."""

    def __init__(self, path: Location) -> None:
        try:
            there, ours = is_folder(path), is_folder(path / "manifest") or size_of(path / "run.json") is not None
        except OSError as error:
            raise OutputError(f"{path}: cannot be read ({error})") from None
        if not there:
            raise OutputError(f"{path}: no such folder; give the --output folder of a pipeline.curate run")
        if not ours:
            raise OutputError(f"{path}: holds neither manifest/ nor run.json; give the --output folder of a pipeline.curate run")
        self.path = path

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json, or an empty mapping where the run ended before it was written. Raises OutputError when unreadable."""
        path = self.path / "run.json"
        try:
            document = read_json(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: cannot be read as JSON ({error}); run pipeline.curate again to write it anew") from None
        if not isinstance(document, dict):
            raise OutputError(f"{path}: expected a mapping, got {type(document).__name__}")
        for name, kind in _RUN.items():
            if not isinstance(document.get(name, kind()), kind):
                raise OutputError(f"{path}: {name} is {type(document[name]).__name__}, not what a run writes; run pipeline.curate again")
        for name, sound in _SOUND.items():
            if name in document and not sound(document[name]):
                raise OutputError(f"{path}: {name} is {str(document[name])!r:.200}, not what a run writes; run pipeline.curate again")
        return document

    def parts(self, table: TableName) -> list[Location]:
        """The table's Parquet files in name order, which is plan order."""
        folder = self.path / "manifest" / table
        return [folder / name for name in names(folder, ".parquet")]

    def dataset(self, table: TableName) -> ds.Dataset:
        """The table as an Arrow dataset, empty where no part was written yet. Raises OutputError for an unreadable part."""
        schema, parts = TABLES[table], self.parts(table)
        if not parts:
            return ds.dataset(schema.empty_table())
        try:
            if isinstance(self.path, Path):
                return ds.dataset([str(part) for part in parts], schema=schema, format="parquet")
            store = PyFileSystem(_Objects(self.path))
            return ds.dataset(
                [part.path for part in parts if not isinstance(part, Path)], schema=schema, format="parquet", filesystem=store
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{self.path / 'manifest' / table}: cannot be read as Parquet ({error})") from None

    def table(self, table: TableName, columns: Sequence[str] | None = None, where: ds.Expression | None = None) -> pa.Table:
        """The chosen columns of the rows that pass `where`. Raises OutputError for an unreadable part."""
        try:
            found = self.dataset(table).to_table(columns=None if columns is None else list(columns), filter=where)
            found.validate(full=True)
            refuse_nulls(found, TABLES[table])
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{self.path / 'manifest' / table}: cannot be read ({error})") from None
        return found

    def limits(self, source: str) -> list[Limit]:
        """The limits the run applied to this source, in the recipe's order."""
        try:
            return [limit_of(each) for each in self.run.get("limits", {}).get(source, [])]
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise OutputError(f"{self.path / 'run.json'}: limits of {source!r} are none that a run writes ({error!r:.200})") from None

    def sources(self) -> list[str]:
        """Every source's name: those of run.json in its order, then any other that the table holds."""
        named = [name for name in self.run.get("recipe", {}).get("sources") or {} if isinstance(name, str)]
        found = sorted(set(self.table("samples", ["source"]).column("source").unique().to_pylist()))
        inputs = self.run.get("inputs", {})
        return [name for name in named if name in found or name in inputs] + [name for name in found if name not in named]


def refuse_nulls(table: pa.Table, schema: pa.Schema) -> None:
    """Raise ArrowInvalid where the schema wants a value and there is none, in lists of members too. Other columns may be there."""
    for field in schema:
        if field.name not in table.column_names:
            continue
        column = table[field.name]
        missing = 0 if field.nullable else column.null_count
        if pa.types.is_list(field.type) and not field.nullable:
            inner = pc.list_flatten(column)
            children = inner.flatten() if pa.types.is_struct(inner.type) else []
            missing += inner.null_count + sum(child.null_count for child in children)
        if missing:
            raise pa.ArrowInvalid(f"the column {field.name!r} has {missing} missing values")


def limit_of(entry: Mapping[str, Any]) -> Limit:
    """A limit as run.json stores it."""
    if entry["score"] not in SCORES:
        raise ValueError(f"no score is named {entry['score']!r:.80}")
    return Limit(str(entry["key"]), entry["score"], entry["op"], float(entry["value"]), Reason(entry["reason"]))
