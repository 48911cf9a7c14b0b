"""Targets: an output folder that somebody damaged or made up, before training, the audit and the report read it."""

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.auditing.folder import OutputError, OutputFolder
from pipeline.auditing.show import UnknownSample, show
from pipeline.auditing.summary import format_summary, summarize
from pipeline.auditing.verify import verify
from pipeline.loader.catalog import Catalog, CatalogError
from pipeline.loader.fetch import ReadError, StorageError, Store
from pipeline.loader.sample import Wanted, read_sample
from tests.audit.fabricate import make_output
from tests.fuzz.mutate import NASTY, mutated, mutated_json, mutated_text
from tests.fuzz.target import Target

_TABLES = ("samples", "shards", "units")
_HOSTILE_NAMES = ("../../etc/passwd", "/etc/passwd", "", ".", "a/../../b", "nul\0", "clips-train-000000-0123abcd.tar", *NASTY[:20])


@cache
def _files() -> dict[str, bytes]:
    """A small output folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_output(Path(folder), clips=9).path
        return {path.relative_to(made).as_posix(): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()}


@st.composite
def _changed(draw: st.DrawFn) -> dict[str, bytes]:
    """Its files with some changed: in their bytes, or rows of tables made anew with values that no run writes."""
    files = dict(_files())
    files["selections/some.txt"] = draw(mutated_text(["clips_-walk_x20005_xmp4\n# a comment\n"]))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        kind = draw(st.integers(0, 5))
        if kind == 0 and name in files:
            del files[name]
        elif name.endswith(".json"):
            files[name] = draw(mutated_json([json.loads(_files()[name])]))
        elif name.endswith(".parquet") and kind >= 2:
            files[name] = draw(_rows(_files()[name]))
        else:
            files[name] = draw(mutated([files[name]], [b"PAR1", b"\0" * 512, b"ustar", b"\xff" * 8]))
    return files


@st.composite
def _rows(draw: st.DrawFn, data: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(data))
    rows = table.to_pylist()
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from(table.column_names))
        row[name] = draw(_value(row[name]))
    schema = table.schema
    if draw(st.integers(0, 5)) == 0:
        gone = draw(st.sampled_from(table.column_names))
        schema = schema.remove(schema.get_field_index(gone))
        rows = [{key: value for key, value in row.items() if key != gone} for row in rows]
    loose = pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
    for each in (schema, loose):  # a column that may hold no null cannot be written with one, but somebody's own program can
        buffer = io.BytesIO()
        try:
            pq.write_table(pa.Table.from_pylist(rows, schema=each), buffer)
            return buffer.getvalue()
        except (pa.ArrowException, ValueError, TypeError, OverflowError, OSError):
            continue
    return data  # what Arrow itself cannot hold


def _value(old: Any) -> st.SearchStrategy[Any]:
    if isinstance(old, bool):
        return st.sampled_from((None, not old))
    if isinstance(old, int):
        return st.sampled_from((None, 0, -1, 1, 2**31 - 1, 2**62, -(2**63), old + 1))
    if isinstance(old, float):
        return st.sampled_from((None, float("nan"), float("inf"), -1e308, 0.0))
    if isinstance(old, str):
        return st.one_of(st.sampled_from((None, *_HOSTILE_NAMES)), st.text(max_size=5))
    if isinstance(old, list) and old:
        return st.one_of(st.sampled_from((None, [], old * 2, [None], old[:1])), st.tuples(_value(old[0])).map(lambda new: [*new, *old[1:]]))
    if isinstance(old, dict) and old:
        return st.sampled_from(sorted(old)).flatmap(lambda key: _value(old[key]).map(lambda new: {**old, key: new}))
    return st.sampled_from((None, [], 0, "x"))


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest").mkdir(exist_ok=True)


def _training(files: dict[str, bytes], folder: Path) -> str:
    catalog = Catalog.open(folder, None if len(files.get("selections/some.txt", b"")) % 3 else "some")
    store, outcomes = Store(str(folder)), set()
    for i in range(min(len(catalog), 6)):
        catalog.angle(i)
        members = catalog.members(i)
        chosen = [member for member in members.values() if member.size < 1 << 24]
        try:
            data = dict(zip([member.name for member in chosen], store.fetch(chosen), strict=True))
            read_sample(catalog.sample_id(i), catalog.view_ids(i), Wanted([0], [0], (8, 8), False), data)
            outcomes.add("read")
        except (ReadError, StorageError) as error:
            assert str(error).strip()
            outcomes.add(type(error).__name__)
    store.close()
    return " ".join(sorted(outcomes))


def _audit(files: dict[str, bytes], folder: Path) -> str:
    output = OutputFolder(folder)
    format_summary(summarize(output))
    problems = verify(output)
    assert all(str(problem).strip() for problem in problems)
    return "sound" if not problems else "problems"


def _show(files: dict[str, bytes], folder: Path) -> str:
    output = OutputFolder(folder)
    shown = 0
    for name in ("clips_-walk_x20005_xmp4", "scenes_-scene1", "groups_-train_-abc"):
        try:
            shown += bool(show(output, name))
        except UnknownSample:
            continue
    return f"{shown} shown"


def targets() -> list[Target]:
    return [
        Target("output, before training", _changed(), _training, (CatalogError,), _write, memory_mb=4096),
        Target("output, audit verify", _changed(), _audit, (OutputError,), _write, memory_mb=4096),
        Target("output, audit show", _changed(), _show, (OutputError,), _write, memory_mb=4096),
    ]
