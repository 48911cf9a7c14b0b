"""The blind comparison: which pairs, in a real browser how it is voted, kept, downloaded and revealed, and what the numbers are."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import main as audit
from pipeline.auditing.folder import OutputFolder
from pipeline.report.ab import CompareError, make_pairs, side
from pipeline.selection import SELECTION
from tests.audit.fabricate import Fabricated, make_output, read_table, write_table
from tests.report.conftest import watched


def select(made: Fabricated, name: str, keep: set[str]) -> None:
    """DIR/selections/NAME.parquet as what-if writes it."""
    rows = [
        dict.fromkeys(SELECTION.names)
        | {"sample_id": row["sample_id"], "source": row["source"], "was": row["status"], "reasons": [], "is_sample": row["is_sample"]}
        | {"status": "kept" if row["sample_id"] in keep else "rejected", "stored": row["shard"] is not None}
        for row in made.rows
    ]
    (made.path / "selections").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION), made.path / "selections" / f"{name}.parquet")


def clip(number: int) -> str:
    return f"clips_-walk_x20{number:03d}_x2emp4"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """Selections: low keeps clips 0 to 9, high 8 to 17, and all keeps 0 to 19."""
    made = make_output(tmp_path_factory.mktemp("compare"))
    for name, numbers in (("low", range(10)), ("high", range(8, 18)), ("all", range(20))):
        select(made, name, {clip(i) for i in numbers})
    return made


def test_pairs_hold_what_only_one_side_keeps(made: Fabricated) -> None:
    output = OutputFolder(made.path)
    pairs = make_pairs(side(output, "low"), side(output, "high"), 100, 0)
    assert {pair.a for pair in pairs} == {clip(i) for i in range(8)} and {pair.b for pair in pairs} == {clip(i) for i in range(10, 18)}
    assert all(pair.source == "clips" and not pair.same for pair in pairs)
    assert (
        pairs
        == make_pairs(side(output, "low"), side(output, "high"), 100, 0)
        != make_pairs(side(output, "low"), side(output, "high"), 100, 1)
    )
    assert len(make_pairs(side(output, "low"), side(output, "high"), 3, 0)) == 3


def test_of_a_smaller_selection_what_both_keep_stands_in(made: Fabricated) -> None:
    output = OutputFolder(made.path)
    pairs = make_pairs(side(output, "all"), side(output, "low"), 100, 0)
    assert len(pairs) == 10
    assert {pair.a for pair in pairs} <= {clip(i) for i in range(10, 20)} and {pair.b for pair in pairs} == {clip(i) for i in range(10)}


def test_of_two_folders_the_same_sample_is_shown_twice(made: Fabricated, tmp_path: Path) -> None:
    other = Path(shutil.copytree(made.path, tmp_path / "other"))
    rows = read_table(other, "samples")
    changed = {row["sample_id"] for row in rows if row["shard"] and row["source"] == "scenes"}
    write_table(other, "samples", [row | ({"content_sha256": "00"} if row["sample_id"] in changed else {}) for row in rows])
    pairs = make_pairs(side(OutputFolder(made.path), None), side(OutputFolder(other), None), 100, 0)
    assert {pair.a for pair in pairs} == changed and all(pair.same and pair.a == pair.b for pair in pairs)


def test_what_cannot_be_compared_is_refused(made: Fabricated, capsys: pytest.CaptureFixture[str]) -> None:
    output = OutputFolder(made.path)
    with pytest.raises(CompareError, match="keep the same samples"):
        make_pairs(side(output, "low"), side(output, "low"), 9, 0)
    assert audit(["compare", str(made.path), "--a", "lo"]) == 2
    assert "no such selection; there are all, high, low" in capsys.readouterr().err
    select(made, "none", set())
    with pytest.raises(CompareError, match="none keeps no sample"):
        side(output, "none")
    (made.path / "selections" / "torn.parquet").write_bytes(b"PAR1")
    assert audit(["compare", str(made.path), "--a", "torn"]) == 2


pytest_browser = pytest.mark.browser


@pytest.fixture(scope="module")
def drawn(made: Fabricated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "judge.html"
    assert audit(["compare", str(made.path), "--a", "low", "--b", "high", "--pairs", "6", "--output", str(path)]) == 0
    first = path.read_bytes()
    assert audit(["compare", str(made.path), "--a", "low", "--b", "high", "--pairs", "6", "--output", str(path)]) == 0
    assert path.read_bytes() == first
    return path


@pytest.fixture
def page(browser: Any, drawn: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    page = watched(context.new_page())
    page.goto(drawn.as_uri())
    yield page
    assert [each for each in page.trouble if "blob:" not in each] == []
    context.close()


def truth(page: Any) -> list[dict[str, Any]]:
    return list(page.evaluate("JSON.parse(document.getElementById('data').textContent).pairs"))


def visible(page: Any) -> str:
    return str(page.locator("main").inner_text())


@pytest_browser
def test_nothing_visible_names_a_side_before_the_end(page: Any) -> None:
    pairs = truth(page)
    assert len(pairs) == 6 and {pair["left"] for pair in pairs} == {"a", "b"}
    for _ in pairs:
        shown = visible(page) + str(page.evaluate("[...document.querySelectorAll('.pair *')].map(e => e.alt + e.title).join()"))
        assert "low" not in shown and "high" not in shown and "walk" not in shown
        assert all(page.locator(".pair img").evaluate_all("all => all.map(i => i.complete && i.naturalWidth > 200)"))
        page.keyboard.press("ArrowRight")
    assert page.locator("#reveal").is_disabled()


@pytest_browser
def test_votes_are_kept_revealed_and_downloaded(page: Any, drawn: Path) -> None:
    pairs = truth(page)
    # The set A wins four times, B once, and one is a tie; the second vote is given again.
    wanted = ["a", "a", "b", "tie", "a", "a"]
    keys = ["0" if want == "tie" else "1" if pair["left"] == want else "2" for want, pair in zip(wanted, pairs, strict=True)]
    page.keyboard.press(keys[0])
    page.keyboard.press("0")
    assert page.locator("#at").inner_text() == "pair 3 of 6, 2 judged"
    page.keyboard.press("ArrowLeft")
    assert page.locator("[data-vote='0']").get_attribute("aria-pressed") == "true"
    page.locator(f".pair [data-vote='{keys[1]}']").click()
    page.reload()
    assert page.locator("#at").inner_text() == "pair 3 of 6, 2 judged"
    for key in keys[2:]:
        page.keyboard.press(key)
    page.locator("#reveal").click()
    assert page.locator("#winner").inner_text() == "out: low was chosen more often, but not clearly"
    assert [int(x) for x in page.locator("#counts b").all_inner_texts()] == [4, 1, 1, 0]
    rows = [row.split("\t") for row in page.locator("#pairs tr").all_inner_texts()]
    assert [row[2] for row in rows] == [f"{pair['left'].upper()} {pair[pair['left']]}" for pair in pairs]
    page.keyboard.press("1")  # it is over: nothing changes
    with page.expect_download() as got:
        page.locator("#json").click()
    found = json.loads(Path(got.value.path()).read_text("utf-8"))
    assert [vote["chosen"] for vote in found["votes"]] == wanted and found["sets"] == {"a": "out: low", "b": "out: high"}
    tally = found["tally"]
    assert (tally["a"], tally["b"], tally["ties"], tally["open"]) == (4, 1, 1, 0)
    stats = pytest.importorskip("scipy.stats")
    test = stats.binomtest(4, 5)
    interval = test.proportion_ci(0.95, "exact")
    assert tally["p"] == pytest.approx(test.pvalue) and tally["interval"] == pytest.approx([interval.low, interval.high], abs=1e-9)
    with page.expect_download() as got:
        page.locator("#csv").click()
    lines = list(csv.DictReader(io.StringIO(Path(got.value.path()).read_text("utf-8"))))
    assert [line["chosen"] for line in lines] == wanted and [line["vote"] for line in lines] == keys
    page.reload()
    assert page.locator("#winner").is_visible()
    page.locator("#again").click()
    assert page.locator("#at").inner_text() == "pair 1 of 6, 0 judged"


@pytest_browser
def test_the_interval_is_the_exact_one(page: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    for wins, n in ((0, 1), (1, 1), (0, 9), (9, 9), (5, 10), (27, 40), (300, 450)):
        found = page.evaluate(f"signTest({wins}, {n})")
        test = stats.binomtest(wins, n)
        interval = test.proportion_ci(0.95, "exact")
        assert found["p"] == pytest.approx(test.pvalue, rel=1e-9)
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_neither_part_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("1")
    page.locator("#reveal").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
