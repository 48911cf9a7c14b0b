"""Targets: recipes, captions, plans, selections, lists of ids; and names and texts on their way into pages, tables and keys."""

import json
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from hypothesis import strategies as st

from pipeline.auditing.layout import format_cell, text_table
from pipeline.binding import bind, load_recipe, shipped_recipes
from pipeline.plan import PlanError, read_captions, read_plan
from pipeline.report.assets import embedded
from pipeline.report.camera_files import sample_cameras
from pipeline.report.camera_view import camera_page
from pipeline.report.markup import chart, code, heading, label, table
from pipeline.selection import SelectionError, parse_settings, read_selection, recipe_differences
from schemas.candidate import MAX_KEY, parse_key, sample_key
from schemas.recipe import parse_recipe
from schemas.typed import RecipeError
from stages.ingest.files import natural_key, read_caption_csv
from stages.storage import Tree
from stages.storage.paths import printable
from tests.fuzz.mutate import mutated, mutated_json, mutated_text, texts
from tests.fuzz.target import Target, check_text, write_file

_YAML = [
    b"&a [1,2]", b"*a", b"<<: *a", b"!!python/object/apply:os.system ['touch x']", b"!!binary x",
    b"!!timestamp 2001-99-99", b"2001-13-45", b"!!int ''",
    b"!!bool maybe", b"!!float x", b"!!set {a, b}", b"? {a: b}\n: c", b"? [a]\n: c", b"[" * 2000, b"{a: " * 900,
    b"!x y", b"%YAML 9.9\n---\n", b"---\n",
    b"...\n", b"\t", b"1:99999999999999999999", b"0x" + b"f" * 400, b"9" * 5000, b".nan", b"-.inf", b"1e999", b"null",
    b"~", b"''", b"- ", b"|\n", b"#",
    b"stages: 3", b"ingest: clip", b"seed: -1", b"target_count: 0", b"\xff", b"\xef\xbb\xbf", b"module:Class",
    b"ingest: 'x:y'", b"exhaustive: 1",
]  # fmt: skip
_LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b",".join([b"*%c" % (letter - 1)] * 9)) for letter in b"bcdefghi"
)


def _recipe(data: bytes, folder: Path) -> str:
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.sources
    bind(recipe)
    return "bound"


def _document(data: bytes, folder: Path) -> str:
    """What a program could give: any JSON as a recipe."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    return f"{min(2, len(parse_recipe(document).sources))} sources"


@st.composite
def _captions(draw: st.DrawFn) -> tuple[str, bytes]:
    kinds = {
        "x.json": mutated_json([{"a": "one", "b": "two"}, [], "x"]),
        "x.jsonl": mutated_text(['{"sample_id": "a", "text": "one"}\n{"sample_id": "b", "text": "two"}\n'], separators=' ":'),
        "x.csv": mutated_text(['sample_id,text\na,one\nb,"two, ""three"""\n', "sample_id,text\n" + "x" * 200_000], separators=' ,"'),
    }
    name = draw(st.sampled_from([*kinds, "x.txt"]))
    return name, draw(kinds[name if name in kinds else "x.csv"])


def _write_named(value: tuple[str, bytes], folder: Path) -> None:
    (folder / value[0]).write_bytes(value[1])


def _read_captions(value: tuple[str, bytes], folder: Path) -> str:
    found = read_captions(folder / value[0])
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in found.items())
    check_text(*found.values())  # they go into caption.txt
    return f"{min(2, len(found))} captions"


def _caption_csv(data: bytes, folder: Path) -> str:
    rows = read_caption_csv(Tree(folder), PurePosixPath("metadata.csv"))
    check_text(*(row.text or "" for row in rows))
    return f"{min(2, len(rows))} rows"


def _write_plan(data: bytes, folder: Path) -> None:
    (folder / "plan").mkdir()
    (folder / "plan" / "batch-000000.jsonl").write_bytes(data)


def _plan(data: bytes, folder: Path) -> str:
    planned = read_plan(folder)
    assert all(isinstance(name, str) for each in planned for name in (each.unit, each.source, *each.candidates))
    return f"{min(2, len(planned))} units"


_SELECTION = {
    "selection_version": 1, "name": "x", "settings": [{"source": "clips", "stage": "quality", "key": "min_sharpness", "value": 3.0}],
    "manifest": "0" * 64, "recipe": {"name": "x",
    "sources": {"clips": {"stages": [{"quality": {"min_sharpness": 3.0}}]}}}, "counts": {"kept": 3},
    "rows_sha256": "0" * 64, "digest": "0" * 64,
}  # fmt: skip


def _write_selection(data: bytes, folder: Path) -> None:
    (folder / "selections").mkdir()
    (folder / "selections" / "x.json").write_bytes(data)


def _selection(data: bytes, folder: Path) -> str:
    selection = read_selection(folder, "x")
    assert len(selection.digest) == 64 and all(isinstance(str(each), str) for each in selection.settings)
    list(recipe_differences(selection.recipe, _SELECTION["recipe"]))
    return "read"


def _settings(value: list[str], folder: Path) -> str:
    return f"{len(parse_settings(value, load_recipe('smoke')))} settings"


# Names on their way.


class _Tags(HTMLParser):
    """The tags of a page with the names of their attributes: what no text may change."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    @classmethod
    def of(cls, page: str) -> list[tuple[str, tuple[str, ...]]]:
        parser = cls()
        parser.feed(page)
        parser.close()
        return parser.found


def _pieces(name: str) -> str:
    return (
        heading(name) + code(name) + label("x", 0, 0, name) + chart("x", 1, 1, name, [], id=name)
        + table("x", [(name, "")], [[code(name)]])
        + f'<script type="application/json">{embedded(json.dumps({name: [name]}))}</script>'
    )  # fmt: skip


def _page(name: str, folder: Path) -> str:
    assert _Tags.of(_pieces(name)) == _Tags.of(_pieces("plain"))
    found = json.loads(embedded(json.dumps({name: [name]})))
    assert found == {name: [name]}
    pages = [_camera_page(each) for each in (name, "plain")]
    assert _Tags.of(pages[0]) == _Tags.of(pages[1])
    pages[0].encode("utf-8", "backslashreplace")
    return "same tags"


def _camera_page(name: str) -> str:
    import numpy as np

    arrays: dict[str, Any] = {
        "c2w": np.tile(np.eye(4), (1, 2, 1, 1)), "K": np.tile(np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), (1, 2, 1, 1)),
        "frame": np.zeros((1, 2), np.int64), "size": np.array([[64, 48]]), "distortion": np.zeros((1, 5)), "metric": np.array([True]),
    }  # fmt: skip
    return camera_page(sample_cameras(arrays, name, (name,)), name)


def _names(names: list[str], folder: Path) -> str:
    shown = [printable(name) for name in names]
    check_text(*shown)
    assert [printable(name) for name in shown] == shown
    assert sorted(sorted(names), key=natural_key) == sorted(sorted(names, reverse=True), key=natural_key)
    lines = text_table(["name"], [[name] for name in names]).split("\n")
    assert len(lines) == 2 + len(names), "a name broke its line"
    assert all(format_cell(name).isprintable() for name in names)
    if not all(shown):
        return "empty"
    key = sample_key(*shown)
    assert 0 < len(key) <= MAX_KEY and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    try:
        assert parse_key(key) == "/".join(shown)
    except ValueError:
        assert len(key) == MAX_KEY or "_h" in key
        return "shortened"
    return "reversible"


def targets() -> list[Target]:
    bind(load_recipe("smoke"))  # libraries change the environment when they are imported
    recipes = [path.read_bytes() for path in shipped_recipes().values()]
    small = [
        b"name: x\nsources:\n  clips:\n    stages: [header, {quality: {min_sharpness: 3}}]\n    options: {csv: a.csv}\n"
        b"    payload: {video: {crf: 14}}\n"
    ]
    documents = [{"name": "x", "seed": 3, "media": {"timeout_s": 3.0}, "shards": {"target_mb": 1.5, "order": "plan"}, "sources": {
        "clips": {"stages": ["header", {"quality": {"min_sharpness": 3}}], "splits": ["train"],
        "payload": {"video": {"crf": 14, "width": 64}}}
    }}]  # fmt: skip
    plan = [
        '{"unit": "u000000", "source": "clips", "candidates": ["a", "b"]}\n{"unit": "u000001", "source": "clips", "candidates": ["c"]}\n'
    ]
    settings = st.lists(
        st.one_of(texts, st.builds("{}.{}={}".format, texts, texts, texts), st.builds("quality.min_sharpness={}".format, texts)), max_size=3
    )
    return [
        Target("recipe yaml", mutated([*small, *small, *recipes, _LAUGHS, small[0] + _LAUGHS], _YAML), _recipe, (RecipeError,),
               write_file("recipe.yaml")),
        Target("recipe document", mutated_json(documents), _document, (RecipeError,)),
        Target("captions", _captions(), _read_captions, (ValueError,), _write_named),
        Target("metadata.csv", mutated_text(['file_name,text\na.mp4,"one, two"\nb.mp4,\n'], separators=' ,"'), _caption_csv, (ValueError,),
               write_file("metadata.csv")),
        Target("plan", mutated_text(plan, separators=' ":,'), _plan, (PlanError,), _write_plan),
        Target("selection json", mutated_json([_SELECTION]), _selection, (SelectionError,), _write_selection),
        Target("--set", settings, _settings, (SelectionError,)),
        Target("a name in a page", texts, _page, share=0.5),
        Target("names", st.lists(texts, min_size=1, max_size=3), _names),
    ]  # fmt: skip
