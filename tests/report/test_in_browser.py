"""The report in a real browser: no error, no request, charts with the table's data, pictures, both widths, both themes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.audit.fabricate import LIMITS, Fabricated
from tests.report.conftest import watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Any, drawn: tuple[Fabricated, Path]) -> Iterator[Any]:
    opened = watched(browser.new_page(viewport={"width": 1360, "height": 900}, color_scheme="light"))
    opened.goto(drawn[1].as_uri())
    yield opened
    opened.close()


HISTOGRAMS = """() => [...document.querySelectorAll("svg.histogram")].map(svg => ({
  source: svg.dataset.source, score: svg.dataset.score, width: svg.getBoundingClientRect().width,
  bins: [...svg.querySelectorAll("g.bin")].map(g => ({low: +g.dataset.low, high: +g.dataset.high, kept: +g.dataset.kept,
    beyond: +g.dataset.beyond, other: +g.dataset.other, left: g.getBoundingClientRect().left, right: g.getBoundingClientRect().right,
    height: g.getBoundingClientRect().height})),
  limits: [...svg.querySelectorAll("line.limit")].map(l => (
    {value: +l.dataset.value, op: l.dataset.op, x: l.getBoundingClientRect().left})),
}))"""


def test_nothing_complains_and_nothing_is_requested(page: Any) -> None:
    page.wait_for_load_state("networkidle")
    assert page.trouble == []


def test_the_headline_numbers_are_those_of_the_table(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    rows = drawn[0].rows
    status = Counter(row["status"] for row in rows if row["is_sample"])
    expected = [sum(row["is_source"] for row in rows), status["kept"], status["rejected"], status["error"], status["skipped"], 5]
    assert [int(text) for text in page.locator(".cards b").all_inner_texts()] == expected
    assert page.locator("table.reasons tbody tr").count() == 7
    assert page.locator("table.errors tbody tr").count() == 2


def test_every_histogram_has_the_tables_data(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    charts = page.evaluate(HISTOGRAMS)
    drawn_pairs = {(chart["source"], chart["score"]) for chart in charts}
    expected = {(row["source"], name) for row in drawn[0].rows for name, value in row["scores"].items() if value is not None}
    assert drawn_pairs == expected
    for chart in charts:
        values = [
            (row["scores"][chart["score"]], row["status"])
            for row in drawn[0].of(chart["source"])
            if row["scores"][chart["score"]] is not None
        ]
        assert sum(each["kept"] + each["beyond"] + each["other"] for each in chart["bins"]) == len(values)
        for each in chart["bins"]:
            inside = [value for value, _ in values if each["low"] - 1e-9 <= value <= each["high"] + 1e-9]
            assert each["kept"] + each["beyond"] + each["other"] <= len(inside)
            assert each["height"] > 1


def test_every_limit_is_drawn_where_it_belongs(page: Any) -> None:
    charts = {(chart["source"], chart["score"]): chart for chart in page.evaluate(HISTOGRAMS)}
    for source, limits in LIMITS.items():
        for limit in limits:
            chart = charts[source, limit["score"]]
            [line] = [each for each in chart["limits"] if (each["value"], each["op"]) == (limit["value"], limit["op"])]
            for each in chart["bins"]:
                if each["high"] <= limit["value"]:
                    assert each["right"] <= line["x"] + 1
                if each["low"] >= limit["value"]:
                    assert each["left"] >= line["x"] - 1
    sharpness = charts["clips", "sharpness"]
    assert sum(each["beyond"] for each in sharpness["bins"] if each["right"] <= sharpness["limits"][0]["x"] + 1) == 4
    assert sum(each["kept"] for each in sharpness["bins"] if each["left"] >= sharpness["limits"][0]["x"] - 1) == 19


def test_pair_angles_stand_over_their_degrees(page: Any) -> None:
    bins = page.evaluate("""() => [...document.querySelectorAll("svg.angles g.bin")].map(g => [+g.dataset.low, +g.dataset.kept])""")
    # Six cameras 20 degrees apart: 5 pairs at 20, 4 at 40 ... in each of three scenes.
    assert bins == [[20, 15], [40, 12], [60, 9], [80, 6], [100, 3]]
    rows = page.locator("table.bins tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["0-60°", "3"], ["30-90°", "3"], ["60-120°", "3"]]


def test_pictures_load_and_kept_and_rejected_stand_side_by_side(page: Any) -> None:
    sizes = page.evaluate("""() => [...document.querySelectorAll("img[data-picture]")].map(i => [i.naturalWidth, i.naturalHeight])""")
    assert len(sizes) > 12 and all(width > 0 and height > 0 for width, height in sizes)
    kept, rejected = page.locator("article.panel").first.locator(".sides > div").all()
    assert abs(kept.bounding_box()["y"] - rejected.bounding_box()["y"]) < 2
    assert kept.bounding_box()["x"] + kept.bounding_box()["width"] <= rejected.bounding_box()["x"]
    # First, middle and last frame of a 16:9 clip side by side.
    width, height = sizes[0]
    assert width / height > 5


def test_a_picture_opens_and_closes(page: Any) -> None:
    page.locator("article.panel img").first.click()
    assert page.locator("#viewer").evaluate("v => v.open && v.querySelector('img').naturalWidth > 0")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").evaluate("v => v.open")


def test_the_theme_can_be_turned(page: Any) -> None:
    colour = "() => getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before
    page.locator("#theme").click()
    assert page.evaluate(colour) == before


@pytest.mark.parametrize("width", [400, 820, 1360, 2200])
def test_no_page_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1360, "height": 900})
