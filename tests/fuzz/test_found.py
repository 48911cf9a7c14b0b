"""What fuzzing found once, each with the code that it ends in now."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz import cameras, media, outputs, seeds, texts
from tests.fuzz.target import Target

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PLANE = "1 0 0 0 0 0 0 1 {}.jpg\n\n"


def _with(name: str, old: bytes, new: bytes) -> bytes:
    data = media._videos()["avi"] if name == "avi" else seeds.files("rig", "cameras.json")[0]
    assert old in data
    return data.replace(old, new)


def _run(**changes: Any) -> dict[str, bytes]:
    files = outputs._files()
    return {**files, "run.json": json.dumps({**json.loads(files["run.json"]), **changes}).encode()}


def _with_column(column: str, first: str | None = None, gone: bool = False) -> tuple[dict[str, bytes], list[str]]:
    """A column of the samples: gone, or with another value in its first row."""
    [name] = [name for name in outputs._files() if name.startswith("manifest/samples/")]
    table = pq.read_table(pa.BufferReader(outputs._files()[name]))
    at = table.schema.get_field_index(column)
    values = pa.array([first, *table[column].to_pylist()[1:]], pa.string())
    buffer = io.BytesIO()
    pq.write_table(table.remove_column(at) if gone else table.set_column(at, column, values), buffer)
    return {**outputs._files(), name: buffer.getvalue()}, ["quality.min_sharpness=30"]


@pytest.fixture(scope="module")
def by_name() -> dict[str, Target]:
    return {target.name: target for module in (cameras, media, outputs, texts) for target in module.targets()}


@pytest.mark.parametrize(
    ("name", "made", "outcome"),
    [
        ("rig json", lambda: _with("rig", b'"version": 1', b'"version": 1, "up": [0, 0, 1e300]'), "E_CAMERA"),
        ("rig json", lambda: _with("rig", b'"width": 32', b'"width": ' + b"9" * 400), "E_CAMERA"),
        ("COLMAP text", lambda: (seeds.COLMAP[0].encode(), f"1 {_PLANE.format('9' * 5000)}".encode()), "1 cameras"),
        ("trajectory txt", lambda: b"https://x\n0 1e308 1 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n", "E_CAMERA"),
        ("picture", lambda: _PNG + bytes(8), "E_OPEN"),
        ("footage in the loader", lambda: _with("avi", b"MJPG", b"\0\0\0\0"), "ReadError"),
        ("the sandbox's answer", lambda: media._message(b'{"value": 1, "buffers": [1e999]}'), "WireError"),
        ("the sandbox's answer", lambda: media._message(b'{"value": {"dict": [["candidate", ["E_OPEN"]]]}, "buffers": []}'), "E_CRASH"),
        ("depth npz", lambda: media._depths()[0][2:], "E_OPEN"),
        ("recipe document", lambda: b'{"name": "x", "media": {"timeout_s": ' + b"9" * 400 + b'}, "sources": {"a": {}}}', "RecipeError"),
        ("recipe yaml", lambda: b"name: x\nsources: {clips: {}}\nseed: &a [*a]\n", "RecipeError"),
        ("recipe yaml", lambda: texts._LAUGHS + b"name: *i\nsources: {clips: {}}\n", "RecipeError"),
        ("recipe yaml", lambda: b"name: 2001-99-99\n", "RecipeError"),
        ("recipe yaml", lambda: b"[" * 5000, "RecipeError"),
        ("plan", lambda: b"{}\n", "PlanError"),
        ("selection json", lambda: b"[" * 100_000, "SelectionError"),
        ("captions", lambda: ("x.json", b"9" * 5000), "ValueError"),
        ("captions", lambda: ("x.json", b'{"a": "\\ud800"}'), "1 captions"),
        ("output, audit verify", lambda: _run(error_budget={"limit": 0.05, "errors": 1, "judged": 9}), "OutputError"),
        ("output, audit verify", lambda: _run(error_budget={"limit": 0.05, "errors": 1, "judged": "", "exceeded": True}), "OutputError"),
        ("output, audit show", lambda: _run(limits={"clips": [3]}), "OutputError"),
        ("output, audit show", lambda: _run(recipe={"sources": {"clips": None}}), "OutputError"),
        ("output, audit what-if", lambda: _with_column("source", gone=True), "OutputError"),
        ("output, audit what-if", lambda: _with_column("source"), "OutputError"),
        ("output, audit what-if", lambda: _with_column("status", ""), "OutputError"),
    ],
)
def test_each_ends_in_its_code(name: str, made: Any, outcome: str, by_name: dict[str, Target], tmp_path: Path) -> None:
    assert by_name[name].try_one(made(), tmp_path) == outcome
