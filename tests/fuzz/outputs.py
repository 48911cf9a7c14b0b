"""Targets: an output folder that somebody damaged or made up, before training, the audit and the report read it.

Of the audit's commands: summary and verify, show, sql, diff and what-if. `export` and `compare` are not among them.
"""

import io
import json
import tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.auditing.diff import diff, format_diff
from pipeline.auditing.flips import count_flips, format_flips
from pipeline.auditing.folder import OutputError, OutputFolder
from pipeline.auditing.show import UnknownSample, show
from pipeline.auditing.sql import QueryError, query
from pipeline.auditing.summary import format_summary, summarize
from pipeline.auditing.verify import verify
from pipeline.auditing.whatif import selected, what_if
from pipeline.loader.catalog import Catalog, CatalogError
from pipeline.loader.fetch import ReadError, StorageError, Store
from pipeline.loader.sample import Wanted, read_sample
from pipeline.report.assets import asset
from pipeline.report.page import render
from pipeline.selection import SELECTION, SelectionError
from schemas.typed import RecipeError
from tests.audit.fabricate import make_output
from tests.fuzz.mutate import NASTY, mutated, mutated_json, mutated_text
from tests.fuzz.target import Target

_TABLES = ("samples", "shards", "units")
_HOSTILE_NAMES = ("../../etc/passwd", "/etc/passwd", "", ".", "a/../../b", "nul\0", "clips-train-000000-0123abcd.tar", *NASTY[:20])


class _Files(dict[str, bytes]):
    """Content by name; shown as what differs from the sound folder."""

    def __repr__(self) -> str:
        sound = _files()
        changed = {name: data[:2000] for name, data in self.items() if data != sound.get(name)}
        return f"{changed!r}, gone: {sorted(sound.keys() - self.keys())}"


@cache
def _files() -> dict[str, bytes]:
    """A small output folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_output(Path(folder), clips=9).path
        run = json.loads((made / "run.json").read_text())
        run["recipe"]["sources"]["clips"]["stages"] = [{"header": {"min_duration_s": 1.0}}, {"quality": {"min_sharpness": 60.0}}]
        (made / "run.json").write_text(json.dumps(run))
        return {path.relative_to(made).as_posix(): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()}


@st.composite
def _changed(draw: st.DrawFn) -> _Files:
    """Its files with some changed: in their bytes, or rows of tables made anew with values that no run writes."""
    files = _Files(_files())
    files["selections/some.txt"] = draw(mutated_text(["clips_-walk_x20005_x2emp4\n# a comment\n"]))
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
        if pa.types.is_map(table.schema.field(name).type) and isinstance(row[name], list):
            row[name] = [entry for entry in row[name] if entry is not None]  # Arrow ends the process; no Parquet file can hold one
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


def _first(value: tuple[dict[str, bytes], Any], folder: Path) -> None:
    _write(value[0], folder)


@st.composite
def _before_report(draw: st.DrawFn) -> _Files:
    """Most often without shards: pictures of them start a sandbox for each source. No input folder that is there, relative to wherever
    this runs: what lies in it is no part of the example."""
    files = draw(_changed())
    if "run.json" in files:
        files["run.json"] = files["run.json"].replace(b'".."', b'"gone"').replace(b'"."', b'"gone"')
    if draw(st.integers(0, 7)):
        for name in [name for name in files if name.startswith("shards/")]:
            del files[name]
    return files


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
    for name in ("clips_-walk_x20005_x2emp4", "scenes_-scene1", "groups_-train_-abc"):
        try:
            shown += bool(show(output, name))
        except UnknownSample:
            continue
    return f"{shown} shown"


_QUERIES = (
    "SELECT source, status, count(*) FROM samples GROUP BY ALL ORDER BY ALL", "SELECT scores.sharpness, * FROM samples ORDER BY 1",
    "SELECT unnest(reasons), unnest(pairs) FROM samples", "SUMMARIZE samples", "SELECT * FROM shards JOIN units ON true",
)  # fmt: skip
_OUT_OF_REACH = (
    "COPY samples TO 'planted.csv'", "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM '/etc/passwd'", "ATTACH 'x.db'",
    "INSTALL httpfs", "SET enable_external_access = true", "SELECT 1; SELECT 2", "DROP VIEW samples", "EXPLAIN ANALYZE COPY samples TO 'x'",
    "CREATE TABLE x AS SELECT 1", "SELECT * FROM os", "EXPORT DATABASE 'x'", "SELECT", "", "\0",
)  # fmt: skip


def _sql(value: tuple[dict[str, bytes], str], folder: Path) -> str:
    header, rows = query(OutputFolder(folder), value[1])
    assert value[1] not in _OUT_OF_REACH
    assert all(len(row) == len(header) for row in rows)
    return "rows" if rows else "no row"


def _beside(files: dict[str, bytes], folder: Path) -> None:
    """The output, and a sound one beside it to compare it with."""
    _write(files, folder)
    if not (sound := folder.parent / "sound").is_dir():
        _write(_files(), sound)


def _diff(files: dict[str, bytes], folder: Path) -> str:
    sound, made = OutputFolder(folder.parent / "sound"), OutputFolder(folder)
    for pair in ((sound, made), (made, sound), (made, made)):
        found = diff(*pair, tolerance=1e-4)
        json.dumps(found)
        assert format_diff(found)
    return "compared"


def _what_if(value: tuple[dict[str, bytes], list[str]], folder: Path) -> str:
    answer = what_if(OutputFolder(folder), value[1], full=True)
    rows = selected(answer)
    rows.validate(full=True)
    assert rows.schema.equals(SELECTION) and len(rows) == len(answer.table)
    counts = count_flips(answer)
    json.dumps(counts)
    assert format_flips(counts, "the command")
    return "answered"


class _Page(HTMLParser):
    """scripts: how many elements may run code. handlers: attributes that would."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.handlers = 0, set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers |= {name for name, _ in attrs if name.startswith("on")}

    @classmethod
    def of(cls, page: str) -> "_Page":
        parser = cls()
        parser.feed(page)
        parser.close()
        return parser


def _report(files: dict[str, bytes], folder: Path) -> str:
    page, _ = render(OutputFolder(folder))
    read = _Page.of(page.encode("utf-8", "backslashreplace").decode())
    assert read.scripts == asset("page.html").count("<script") and not read.handlers, (read.scripts, read.handlers)
    return "drawn"


def targets() -> list[Target]:
    queries = st.sampled_from((*_QUERIES, *_QUERIES, *_OUT_OF_REACH))
    settings = st.sampled_from((["quality.min_sharpness=30"], ["clips.header.min_duration_s=off", "quality.min_sharpness=1e9"], []))
    limits = (OutputError, SelectionError, RecipeError)
    return [
        Target("output, before training", _changed(), _training, (CatalogError,), _write, memory_mb=4096),
        Target("output, audit verify", _changed(), _audit, (OutputError,), _write, memory_mb=4096),
        Target("output, audit show", _changed(), _show, (OutputError,), _write, memory_mb=4096),
        Target("output, audit sql", st.tuples(_changed(), queries), _sql, (OutputError, QueryError), _first, memory_mb=4096),
        Target("output, audit diff", _changed(), _diff, (OutputError,), _beside, memory_mb=4096),
        Target("output, audit what-if", st.tuples(_changed(), settings), _what_if, limits, _first, memory_mb=4096),
        Target("output, report", _before_report(), _report, (OutputError,), _write, sandbox=True, memory_mb=None),
    ]
