"""The table of samples and the cost in a real browser: filtered, sorted, paged and opened as the manifest's rows say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.audit.fabricate import Fabricated
from tests.report.conftest import watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(browser: Any, drawn: tuple[Fabricated, Path]) -> Iterator[Any]:
    page = watched(browser.new_page(viewport={"width": 1360, "height": 900}))
    page.goto(drawn[1].as_uri())
    yield page
    assert page.trouble == []
    page.close()


@pytest.fixture
def page(opened: Any) -> Any:
    for name in ("source", "status", "reason", "score", "sort"):
        opened.locator(f"#samples-{name}").select_option("", force=True)
    opened.locator("#samples-as").select_option("table")
    opened.locator("#samples-id").fill("")
    return opened


def ids(page: Any) -> list[str]:
    """Of every page, in order."""
    found = []
    while True:
        found += page.locator("#samples-list .open-sample").evaluate_all("all => all.map(each => each.dataset.id)")
        if page.locator("#samples-after").is_disabled():
            return found
        page.locator("#samples-after").click()


def judged(made: Fabricated) -> list[dict[str, Any]]:
    return [row for row in made.rows if row["is_sample"] or row["status"] != "kept"]


def test_every_judged_row_is_listed(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    assert sorted(ids(page)) == sorted(row["sample_id"] for row in judged(drawn[0]))
    assert page.locator("#samples-told").inner_text().startswith(f"All {len(judged(drawn[0]))} samples judged")


def test_filters_combine(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    page.locator("#samples-source").select_option(label="groups")
    assert set(ids(page)) == {row["sample_id"] for row in drawn[0].of("groups") if row["is_sample"]}
    page.locator("#samples-reason").select_option(label="low_overlap (5)")
    low = {row["sample_id"] for row in drawn[0].rows if "low_overlap" in row["reasons"]}
    assert set(ids(page)) == low and len(low) == 5
    page.locator("#samples-status").select_option(label="kept (25)")
    assert ids(page) == [] and page.locator("#samples-count").inner_text().startswith("0 of")
    page.locator("#samples-source").select_option("")
    page.locator("#samples-reason").select_option("")
    assert set(ids(page)) == {row["sample_id"] for row in judged(drawn[0]) if row["status"] == "kept"}
    page.locator("#samples-id").fill("WALK_x20003")
    assert len(ids(page)) == 0  # it is blurred
    page.locator("#samples-status").select_option("")
    assert ids(page) == ["clips_-walk_x20003_x2emp4"]


def test_a_range_of_a_score_and_its_order(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    assert page.locator("#samples-low").is_disabled()
    page.locator("#samples-score").select_option("sharpness")
    page.locator("#samples-low").fill("50")
    page.locator("#samples-high").fill("120")
    page.locator("#samples-sort").select_option("down")
    rows = [row for row in drawn[0].of("clips") if row["scores"]["sharpness"] is not None and 50 <= row["scores"]["sharpness"] <= 120]
    expected = [row["sample_id"] for row in sorted(rows, key=lambda row: -row["scores"]["sharpness"])]
    assert ids(page) == expected and len(expected) == 8
    shown = page.locator("table.samples tbody td:last-child").all_inner_texts()
    assert shown == [f"{value:g}" for value in range(120, 40, -10)]
    page.locator("th .sort").click()
    assert ids(page) == expected[::-1]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.locator("#samples-low").fill("")
    page.locator("#samples-high").fill("")
    assert ids(page)[-1] not in expected  # not computed comes last, either way


def test_a_sample_opens_with_its_scores_beside_the_limits(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    page.locator("#samples-id").fill("walk_x20002")
    page.locator(".open-sample").click()
    dialog = page.locator("#sample")
    assert dialog.evaluate("d => d.open") and page.locator("#sample-title").inner_text() == "clips_-walk_x20002_x2emp4"
    lines = [line.split("\t") for line in dialog.locator("tbody tr").all_inner_texts()]
    assert lines[0] == ["sharpness", "40", "luma²", "≥ 60", "blurred"]
    assert ["duration_s", "2.5", "s", "≥ 1", "passes"] in lines and ["duration_s", "2.5", "s", "≤ 9", "passes"] in lines
    assert ["width", "160", "px", "", ""] in lines
    assert "Less sharp than the recipe asks for" in dialog.locator(".why").inner_text()
    assert "all 9 frames" in dialog.locator(".verdict").inner_text()
    assert dialog.locator("img").evaluate("i => i.naturalWidth") > 100
    assert dialog.locator("pre").inner_text() == f"python -m pipeline.audit show {drawn[0].path} clips_-walk_x20002_x2emp4"
    page.keyboard.press("Escape")
    assert not dialog.evaluate("d => d.open")


def test_a_hostile_candidate_opens_as_text(page: Any) -> None:
    page.locator("#samples-reason").select_option(label="E_OPEN (1)")
    page.locator(".open-sample").click()
    assert "<script>alert(2)</script>" in page.locator("#sample .note").first.inner_text()
    page.keyboard.press("Escape")


def test_a_scene_opens_with_its_cameras(page: Any) -> None:
    page.locator("#samples-source").select_option(label="scenes")
    page.locator(".open-sample").first.click()
    assert page.locator("#sample g.camera").count() == 6
    before = page.locator("#sample path.frustum").first.get_attribute("d")
    page.locator("#sample .camera-stage svg").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#sample path.frustum").first.get_attribute("d") != before
    page.keyboard.press("Escape")


def test_cameras_of_a_source_are_drawn_and_another_sample_is_chosen(page: Any) -> None:
    page.locator(".scenes").scroll_into_view_if_needed()
    page.wait_for_selector(".scenes g.camera")
    assert page.locator(".scenes button[data-scene]").all_inner_texts() == ["scenes_-scene0", "scenes_-scene1", "scenes_-scene2"]
    page.locator(".scenes button[data-scene]").last.click()
    assert "scenes_-scene2" in page.locator(".scenes svg").get_attribute("aria-label")
    assert page.locator(".scenes button[aria-pressed=true]").first.inner_text() == "scenes_-scene2"


def test_pictures_instead_of_lines(page: Any) -> None:
    page.locator("#samples-source").select_option(label="clips")
    page.locator("#samples-as").select_option("gallery")
    assert page.locator(".sample-tiles figure").count() == 26
    assert page.locator(".sample-tiles img").count() >= 20


def test_the_cost_is_measured_seconds_times_n_over_workers(page: Any, drawn: tuple[Fabricated, Path]) -> None:
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in page.locator("table.cost tbody tr").all_inner_texts()}
    assert rows["clips"][:4] == ["26", "30.0", "1.154", "3,120"] and rows["scenes"][:4] == ["4", "8.0", "2", "1,800"]
    stages = {row.split("\t")[0]: row.split("\t") for row in page.locator("table.stages tbody tr").all_inner_texts()}
    assert {name: cells[1] for name, cells in stages.items()} == {"quality": "17.00", "payload": "12.00", "outside stages": "9.00"}
    assert "1 of 15 steps were reused" in page.locator("#cost .notice").inner_text()

    def answers() -> list[float]:
        return [float(x) for x in page.locator("#cost-answer dd").evaluate_all("all => all.map(each => each.dataset.value)")]

    page.locator("#cost-source").select_option("scenes")
    page.locator("#cost-count").fill("900000")
    page.locator("#cost-workers").fill("8")
    size = sum(member["size"] for member in members(drawn[0]))
    assert answers() == pytest.approx([500, 62.5, 675000, size * 900000 / 4])
    page.locator("#cost-source").select_option("")
    assert answers()[:2] == pytest.approx([38 / 30 * 900000 / 3600, 38 / 30 * 900000 / 3600 / 8])
    page.locator("#cost-workers").fill("0")
    assert page.locator("#cost-answer").inner_text() == "Give numbers above 0."
    page.locator("#cost-workers").fill("8")


def members(made: Fabricated) -> list[dict[str, Any]]:
    from tests.audit.fabricate import read_table

    return [member for shard in read_table(made.path, "shards") if shard["source"] == "scenes" for member in shard["members"]]
