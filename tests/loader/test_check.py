"""What would stop or spoil training is said before it starts, and what the message proposes works."""

import re
from dataclasses import replace

import pytest

from pipeline.loader.catalog import Catalog
from pipeline.loader.check import check
from pipeline.loader.order import Order
from pipeline.loader.settings import LoaderSettings, Phase
from tests.loader.manifests import Made, circle, mixed, write_manifest

SETTINGS = LoaderSettings(batch=2, frames=17, curriculum=())
CURRICULUM = (Phase(0, 0, 60), Phase(10, 30, 90), Phase(20, 60, 120))


def catalog_of(tmp_path, rows: list[Made]) -> Catalog:
    return Catalog.open(write_manifest(tmp_path, rows))


def videos(count: int = 4, **columns) -> list[Made]:
    return [circle(f"video{i}", [0, 50, 100], **columns) for i in range(count)]


def pictures(count: int = 4, **columns) -> list[Made]:
    return [circle(f"group{i}", [0, 5], frames=1, **columns) for i in range(count)]


def clips(count: int = 4, **columns) -> list[Made]:
    return [Made(f"clip{i}", **columns) for i in range(count)]


def proposed_mix(message: str) -> dict[str, float]:
    pairs = re.search(r"--mix (\S+)", message).group(1)
    return {kind: float(share) for kind, share in (pair.split("=") for pair in pairs.split(","))}


def test_sound_data_has_no_problem_and_the_numbers_are_right(tmp_path):
    result = check(catalog_of(tmp_path, videos() + pictures(5) + clips(2) + clips(0)), replace(SETTINGS, curriculum=CURRICULUM), steps=30)
    assert result.problems == [] and result.warnings == []
    assert [(c.kind, c.share, c.samples, c.eligible, c.with_text) for c in result.kinds] == [
        ("multiview_video", 0.6, 4, 4, 4),
        ("multiview_images", 0.2, 5, 5, 5),
        ("singleview_video", 0.2, 2, 2, 2),
    ]
    assert [c.epochs for c in result.kinds] == pytest.approx([0.6 * 60 / 4, 0.2 * 60 / 5, 0.2 * 60 / 2])
    # each video has pairs at 50, 50 and 100 degrees
    assert [(p.begin, p.end, p.low, p.high, p.samples, p.pairs) for p in result.phases] == [
        (0, 10, 0, 60, 4, 8),
        (10, 20, 30, 90, 4, 8),
        (20, 30, 60, 120, 4, 4),
    ]
    assert [p.repeats for p in result.phases] == pytest.approx([12 / 8, 12 / 8, 12 / 4])


def test_the_table_is_aligned_and_ends_with_the_warnings(tmp_path):
    rows = [*videos(text=False), *pictures(other={"license": "CC-BY-4.0"}), *clips()]
    result = check(catalog_of(tmp_path, rows), replace(SETTINGS, curriculum=CURRICULUM), steps=30)
    lines = result.lines()
    assert len({len(line) for line in lines[:4]}) == 1 and len({len(line) for line in lines[4:8]}) == 1
    assert lines[1].split() == ["multiview_video", "60%", "4", "4", "0%", "9"]
    assert lines[5].split() == ["0-10", "0-60°", "4", "8", "1.5"]
    assert lines[8] == f"licences: none: {len(rows) - len(pictures())} samples, CC-BY-4.0: {len(pictures())} samples"
    assert lines[9:] == [f"warning: {result.warnings[0]}"] and "have no text" in lines[9]


@pytest.mark.parametrize(
    ("rows", "missing", "mix"),
    [
        (videos() + clips(), "20% multiview_images", {"multiview_video": 0.75, "singleview_video": 0.25}),
        (pictures() + clips(), "60% multiview_video", {"multiview_images": 0.5, "singleview_video": 0.5}),
        (videos(), "20% singleview_video", {"multiview_video": 1.0}),
    ],
)
def test_a_kind_that_is_missing_is_named_with_a_mix_that_works(tmp_path, rows, missing, mix):
    catalog = catalog_of(tmp_path, rows)
    problems = check(catalog, SETTINGS, steps=10).problems
    assert any(missing in problem for problem in problems)
    for problem in problems:
        assert proposed_mix(problem) == mix
    settings = replace(SETTINGS, mix=mix)
    assert check(catalog, settings, steps=10).problems == []
    assert Order(catalog, settings).draws(0)


def test_a_mix_that_is_proposed_adds_up_to_one(tmp_path):
    settings = replace(SETTINGS, mix={"multiview_video": 0.123456, "multiview_images": 0.7, "singleview_video": 0.176544})
    catalog = catalog_of(tmp_path, videos() + clips())
    [problem] = check(catalog, settings, steps=10).problems
    assert check(catalog, replace(settings, mix=proposed_mix(problem)), steps=10).problems == []


def test_more_views_than_there_are(tmp_path):
    catalog = catalog_of(tmp_path, videos() + clips())
    settings = replace(SETTINGS, views=4, mix={"multiview_video": 0.5, "singleview_video": 0.5})
    [problem] = check(catalog, settings, steps=10).problems
    assert "none of its 4 samples has 4 views" in problem and "use --views 3 or less" in problem
    assert check(catalog, replace(settings, views=3), steps=10).problems == []


def test_more_image_views_than_there_are(tmp_path):
    settings = replace(SETTINGS, image_views=3, mix={"multiview_images": 1.0})
    [problem] = check(catalog_of(tmp_path, pictures()), settings, steps=10).problems
    assert "use --image-views 2 or less, or other data" in problem


def test_more_frames_than_there_are(tmp_path):
    rows = [circle(f"video{i}", [0, 50], frames=frames) for i, frames in enumerate((20, 49, 50, 60))]
    settings = replace(SETTINGS, frames=81, mix={"multiview_video": 1.0})
    catalog = catalog_of(tmp_path, rows)
    [problem] = check(catalog, settings, steps=10).problems
    assert "none of its 4 samples has 81 frames: the longest has 60" in problem and "at most --frames 49" in problem
    assert check(catalog, replace(settings, frames=49), steps=10).kinds[0].eligible == 3
    [problem] = check(catalog, replace(settings, frame_stride=3), steps=10).problems
    assert "81 frames, every 3.: the longest has 20" in problem
    assert check(catalog, replace(settings, frame_stride=3, frames=20), steps=10).kinds[0].eligible == 1


def test_views_and_frames_that_no_sample_has_together(tmp_path):
    rows = [circle("many-views", [0, 10, 20], frames=5), circle("many-frames", [0, 10], frames=60)]
    catalog = catalog_of(tmp_path, rows)
    settings = replace(SETTINGS, views=3, mix={"multiview_video": 1.0})
    [problem] = check(catalog, settings, steps=10).problems
    assert "both 3 views and 17 frames" in problem and "use --views 2 or less" in problem
    assert check(catalog, replace(settings, views=2), steps=10).problems == []


def test_lengths_that_are_unknown(tmp_path):
    settings = replace(SETTINGS, mix={"singleview_video": 1.0})
    [problem] = check(catalog_of(tmp_path / "a", clips(frames=None)), settings, steps=10).problems
    assert "the length of none of its 4 samples is known" in problem
    result = check(catalog_of(tmp_path / "b", [*clips(), Made("long", frames=None)]), settings, steps=10)
    assert result.problems == [] and "how many frames 1 of 5" in result.warnings[0]


def test_a_phase_without_a_sample(tmp_path):
    catalog = catalog_of(tmp_path, [circle(f"video{i}", [0, 20 + i]) for i in range(4)])
    settings = replace(SETTINGS, mix={"multiview_video": 1.0}, curriculum=CURRICULUM)
    problems = check(catalog, settings, steps=100).problems
    assert len(problems) == 2
    assert "steps 10-20 draw view pairs at 30-90 degrees, but none of 4" in problems[0] and "they lie at 20-23" in problems[0]
    assert "steps 20-100 draw view pairs at 60-120 degrees" in problems[1]
    assert check(catalog, settings, steps=10).problems == []  # the run ends before
    assert check(catalog, replace(settings, curriculum=()), steps=100).problems == []


def test_a_phase_with_too_few_partners_says_how_many_views_it_has(tmp_path):
    catalog = catalog_of(tmp_path, videos())
    settings = replace(SETTINGS, views=3, mix={"multiview_video": 1.0}, curriculum=CURRICULUM)
    [problem] = check(catalog, settings, steps=30).problems
    assert "steps 20-30" in problem and "use --views 2 or less" in problem
    assert check(catalog, replace(settings, views=2), steps=30).problems == []


def test_a_thin_phase_is_a_warning(tmp_path):
    rows = [circle(f"near{i}", [0, 40]) for i in range(50)] + [circle(f"far{i}", [0, 100]) for i in range(2)]
    settings = replace(SETTINGS, mix={"multiview_video": 1.0}, curriculum=CURRICULUM)
    result = check(catalog_of(tmp_path, rows), settings, steps=30)
    assert result.problems == []
    [warning] = result.warnings
    assert "60-120 degrees, which only 2 of 52" in warning and "drawn 10 times" in warning


def test_pairs_that_are_drawn_too_often_are_a_warning(tmp_path):
    settings = replace(SETTINGS, mix={"multiview_video": 1.0}, curriculum=CURRICULUM)
    result = check(catalog_of(tmp_path, videos()), settings, steps=221)
    assert result.problems == []
    [warning] = result.warnings  # 201 steps of 2 over 4 pairs at 100 degrees
    assert "60-120 degrees: there are 4, each is drawn 100 times" in warning
    assert check(catalog_of(tmp_path / "more", videos(5)), settings, steps=221).warnings == []


def test_unknown_angles_are_reported_where_a_curriculum_needs_them(tmp_path):
    rows = [*videos(3), Made("dark", views=2)]
    settings = replace(SETTINGS, mix={"multiview_video": 1.0})
    catalog = catalog_of(tmp_path, rows)
    [warning] = check(catalog, replace(settings, curriculum=CURRICULUM), steps=30).warnings
    assert "1 of 4" in warning and "unknown" in warning
    assert check(catalog, settings, steps=30).warnings == []
    alone = catalog_of(tmp_path / "alone", rows[3:])
    problems = check(alone, replace(settings, curriculum=CURRICULUM), steps=5).problems
    assert "their angles are unknown" in problems[0]


@pytest.mark.parametrize(("mute", "limit", "warned"), [(2, 0.5, False), (3, 0.5, True), (1, 0.1, True), (0, 0.0, False), (4, 1.0, False)])
def test_samples_without_text_beyond_the_share_are_a_warning(tmp_path, mute, limit, warned):
    rows = [Made(f"clip{i}", text=i >= mute) for i in range(4)]
    settings = replace(SETTINGS, mix={"singleview_video": 1.0})
    warnings = check(catalog_of(tmp_path, rows), settings, steps=10, max_untexted=limit).warnings
    assert [f"{mute} of 4 singleview_video samples have no text" in warning for warning in warnings] == [True] * warned


def test_samples_that_are_left_out_are_counted(tmp_path):
    rows = [circle("ok", [0, 10, 20]), *(circle(f"two{i}", [0, 10]) for i in range(3)), circle("short", [0, 10, 20], frames=4)]
    settings = replace(SETTINGS, views=3, mix={"multiview_video": 1.0})
    [warning] = check(catalog_of(tmp_path, rows), settings, steps=10).warnings
    assert "only 1 of 5" in warning and "3 have fewer than 3 views" in warning and "1 fewer than 17 frames" in warning


def test_a_check_without_problems_means_that_every_step_can_be_drawn(tmp_path):
    catalog = catalog_of(tmp_path, mixed())
    settings = replace(SETTINGS, curriculum=CURRICULUM, views=3)
    assert check(catalog, settings, steps=60).problems == []
    order = Order(catalog, settings)
    assert all(len(order.draws(step)) == 2 for step in range(60))
