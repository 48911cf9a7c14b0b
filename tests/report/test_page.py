"""The file by itself: complete, self-contained, escaped, the same each time, and drawn whatever is missing."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.auditing.folder import OutputError, OutputFolder
from pipeline.curate import main
from pipeline.report import write_report
from pipeline.report.data import load_source
from pipeline.report.sheets import limit_sheet, limited_scores, other_reasons, reason_sheet
from tests.audit.fabricate import HOSTILE, Fabricated, read_table, write_table
from tests.engine import toy


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data


def test_the_file_needs_nothing_else(drawn: tuple[Fabricated, Path]) -> None:
    text = drawn[1].read_text("utf-8")
    page = Tags(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (name, value)
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    [policy] = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text) < 5_000_000


def test_a_hostile_file_name_stays_text(drawn: tuple[Fabricated, Path]) -> None:
    page = Tags(drawn[1].read_text("utf-8"))
    assert HOSTILE in page.text
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)


def test_a_hostile_recipe_and_source_name_stay_text(drawn: tuple[Fabricated, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(drawn[0].path, tmp_path / "out"))
    run = json.loads((folder / "run.json").read_text().replace('"clips"', json.dumps("</script><script>x()")))
    run["recipe"]["name"] = run["recipe"]["description"] = "</title><script>x()</script>"
    (folder / "run.json").write_text(json.dumps(run))
    rows = read_table(folder, "samples")
    for row in rows:
        row["source"] = "</script><script>x()" if row["source"] == "clips" else row["source"]
    write_table(folder, "samples", rows)
    page = Tags(write_report(folder).read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "</script><script>x()" in page.text


def test_the_same_folder_gives_the_same_bytes(drawn: tuple[Fabricated, Path], tmp_path: Path) -> None:
    made, path = drawn
    again = write_report(made.path, tmp_path / "again.html")
    assert again == tmp_path / "again.html"
    assert again.read_bytes() == path.read_bytes()


def test_sheets_show_the_nearest_first_on_both_sides(drawn: tuple[Fabricated, Path]) -> None:
    source = load_source(OutputFolder(drawn[0].path), "clips")
    scores = limited_scores(source)
    assert list(scores) == ["sharpness", "duration_s"] and len(scores["duration_s"]) == 2
    sheet = limit_sheet(source, "sharpness", scores["sharpness"], 4)
    # Number 7 (90) is too short, so it is neither kept nor beyond this limit.
    assert [entry.score for entry in sheet.kept] == [60.0, 70.0, 80.0, 100.0]
    assert [entry.score for entry in sheet.rejected] == [50.0, 40.0, 30.0, 20.0]
    assert (sheet.n_kept, sheet.n_rejected) == (19, 4)
    duration = limit_sheet(source, "duration_s", scores["duration_s"], 2)
    assert [(entry.score, entry.limit.value) for entry in duration.kept if entry.limit] == [(7.75, 9.0), (7.5, 9.0)]


def test_reasons_that_no_limit_decides_get_a_sheet_of_their_own(drawn: tuple[Fabricated, Path]) -> None:
    source = load_source(OutputFolder(drawn[0].path), "groups")
    assert other_reasons(source) == ["no_such_angle"]
    assert reason_sheet(source, "no_such_angle", 4).n_rejected == 1
    assert other_reasons(load_source(OutputFolder(drawn[0].path), "scenes")) == []


def test_footage_that_is_gone_or_broken_costs_only_its_picture(drawn: tuple[Fabricated, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(drawn[0].path, tmp_path / "out"))
    text = drawn[1].read_text("utf-8")
    assert text.count(">source not available<") == 4  # rejected groups: their input folder was never there
    shutil.rmtree(folder / "shards")
    run = json.loads((folder / "run.json").read_text())
    run["inputs"] = {}
    (folder / "run.json").write_text(json.dumps(run))
    bare = write_report(folder).read_text("utf-8")
    assert json.loads(html.unescape(re.search(r'id="pictures">(.*?)</script>', bare, re.S)[1])) == []
    assert "shard not available" in bare


def test_a_run_that_was_cut_short_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "interrupted", "recipe": {"name": "cut", "sources": {}}}')
    text = write_report(tmp_path).read_text("utf-8")
    assert "This run is <b>interrupted</b>" in text


def test_a_folder_that_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds neither manifest/ nor run"):
        write_report(tmp_path)


def test_a_rerun_draws_the_report_only_where_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    footage = toy.make_numbers(tmp_path / "in", 4)

    def rerun(code_version: str = "git:one", **touchy: float) -> tuple[int, bytes]:
        for user in ("run", "report"):
            monkeypatch.setattr(f"pipeline.{user}.code_version", lambda: code_version)
        written = toy.recipe(tmp_path, touchy=touchy)
        assert main([str(written), f"--input=numbers={footage}", f"--output={tmp_path / 'out'}", "--executor=inline", "--quiet"]) == 0
        page = tmp_path / "out" / "report" / "index.html"
        return page.stat().st_ino, page.read_bytes()

    first = rerun()
    assert rerun() == first, "left as it is"
    changed = rerun(max_brightness=0.001)
    assert changed[1] != first[1]
    page = tmp_path / "out" / "report" / "index.html"
    page.write_bytes(changed[1][:-200])
    assert rerun(max_brightness=0.001)[1] == changed[1], "a page that is not whole is drawn again"
    again = rerun("git:one-dirty", max_brightness=0.001)
    assert rerun("git:one-dirty", max_brightness=0.001)[0] != again[0], "a commit and changes in it do not say which code draws"
