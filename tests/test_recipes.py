"""Recipes are refused before anything runs, in words that say what to write instead."""

import copy
from typing import Any

import pytest
import yaml

from pipeline.binding import bind, load_recipe, shipped_recipes
from schemas.recipe import parse_recipe
from schemas.scores import SCORES
from schemas.typed import RecipeError
from stages.ingest import ingests
from stages.perception.checkpoints import GROUPS
from stages.registry import stages

H264 = {"video": {"codec": "h264"}}
GOOD: dict[str, Any] = {
    "name": "mine",
    "units": {"size": 4},
    "sources": {"clips": {"stages": [{"header": {"min_width": 128}}, {"quality": {}}], "payload": {"video": "copy"}}},
}


def refusal(document: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        for source in bind(parse_recipe(document)).values():
            assert source.ingest and source.stages
    return str(caught.value)


def changed(where: str, value: Any) -> Any:
    """GOOD with one place changed, e.g. "sources.clips.stages"."""
    document = copy.deepcopy(GOOD)
    *path, last = where.split(".")
    place = document
    for key in path:
        place = place.setdefault(key, {})
    place[last] = value
    return document


def source(*stage_list: Any, ingest: str = "clips", **more: Any) -> Any:
    return {"name": "mine", "sources": {ingest: {"stages": list(stage_list), **more}}}


def test_the_four_recipes_of_the_papers_and_the_demo_are_shipped():
    assert set(shipped_recipes()) >= {"smoke", "syncammaster", "fcvg", "recapture"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_binds(name, fetched):
    recipe = load_recipe(name)
    for checkpoint in GROUPS["mediapipe"] if name == "fcvg" else ():  # as the recipe tells its user
        fetched(checkpoint)
    assert recipe.name == name and recipe.description
    for key, each in bind(recipe).items():
        assert each.ingest.format == key, "a shipped recipe's sources are called like their layouts"
        assert each.stages, "a source without stages has no verdict to give"


def test_smoke_takes_every_built_layout_so_that_the_demo_does():
    assert set(load_recipe("smoke").sources) == set(ingests())


def test_the_recipe_that_everything_here_is_changed_from_is_good():
    assert bind(parse_recipe(GOOD))["clips"].stages


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("sedd", 1, ["unknown key 'sedd'", "did you mean 'seed'?"]),
        ("units.sise", 4, ["recipe.units", "did you mean 'size'?"]),
        ("shards.target", 4, ["did you mean 'target_mb'?"]),
        ("media.timeout", 4, ["did you mean 'timeout_s'?"]),
        ("sources.clips.stagse", [], ["recipe.sources.clips", "did you mean 'stages'?"]),
        ("sources.clips.ingest", "clip", ["unknown layout 'clip'", "did you mean 'clips'?", "module:Class"]),
        ("sources.clips.options", {"globb": "*"}, ["recipe.sources.clips.options", "did you mean 'glob'?"]),
        ("sources.clips.stages", ["qualty"], ["recipe.sources.clips.stages[0]", "unknown stage", "did you mean 'quality'?"]),
        ("sources.clips.stages", ["header", {"quality": {"min_sharpnes": 3}}], ["stages[1].quality", "did you mean 'min_sharpness'?"]),
        ("sources.clips.payload", {"vidio": "copy"}, ["did you mean 'video'?"]),
        ("sources.clips.payload", {"video": {"cfr": 3}}, ["did you mean 'crf'?"]),
        ("sources.clips.zebra", 1, ["unknown key 'zebra'", "allowed:", "best_by"]),
    ],
)
def test_an_unknown_name_says_where_it_stands_and_what_is_nearest(where, value, said):
    message = refusal(changed(where, value))
    assert all(part in message for part in said), message


def test_an_unknown_score_names_the_nearest():
    message = refusal(source("quality", target_count=3, best_by="-sharpnes"))
    assert "best_by" in message and "did you mean 'sharpness'?" in message


def test_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'syncammaster'"):
        load_recipe("synccammaster")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [\n")
    with pytest.raises(RecipeError, match=r"broken\.yaml: not readable as YAML"):
        load_recipe(str(broken))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("seed", -1, ["recipe.seed", "-1", "at least 0"]),
        ("seed", "7", ["recipe.seed", "expected int", "'7'"]),
        ("seed", True, ["expected int"]),
        ("units.size", 0, ["recipe.units.size", "from 1 to 1000"]),
        ("units.size", 2.5, ["expected int", "2.5"]),
        ("shards.order", "shufle", ["'plan', 'shuffle'", "did you mean 'shuffle'?"]),
        ("shards.target_mb", float("nan"), ["out of range"]),
        ("media.memory_mb", 10, ["at least 256"]),
        ("keep_rejected", "all", ["'none', 'features', 'payload'"]),
        ("sources", {}, ["expected at least one source"]),
        ("sources.clips.stages", "quality", ["expected a list"]),
        ("sources.clips.stages", [{"header": {}, "quality": {}}], ["expected a stage's name or 'name: {settings}'"]),
        ("sources.clips.stages", [{"header": [1]}], ["expected a stage's name or 'name: {settings}'"]),
        ("sources.clips.stages", [{"quality": {"sample_frames": 0}}], ["sample_frames", "from 1 to 100000"]),
        ("sources.clips.stages", [{"quality": {"min_sharpness": "sharp"}}], ["min_sharpness", "expected float", "'sharp'"]),
        ("sources.clips.payload", {"video": {"crf": 99}}, ["crf", "from 0 to 51"]),
        ("sources.clips.payload", {"image": "gif"}, ["'jpg', 'png'"]),
        ("sources.clips.options", {"glob": "../*"}, ["must be relative to the input"]),
        ("sources.clips.options", {"extensions": ["MP4"]}, ["lower-case ones with their dot"]),
        ("sources.clips.splits", "train", ["splits", "expected a list"]),
        ("sources.clips.target_count", 0, ["target_count", "at least 1"]),
        ("name", None, ["recipe.name", "expected str"]),
    ],
)
def test_an_impossible_value_says_what_is_allowed(where, value, said):
    message = refusal(changed(where, value))
    assert all(part in message for part in said), message


def test_what_is_no_recipe_at_all():
    assert "a recipe is a mapping" in refusal([1, 2])
    assert "the key 'name' is required" in refusal({"sources": GOOD["sources"]})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (source("view_groups"), ["stages[0]", "'view_groups' needs cameras", "available here: video"]),
        (source("sync"), ["'sync' needs synchronized"]),
        (source("view_angles"), ["'view_angles' needs cameras, synchronized"]),
        (source("endpoints"), ["'endpoints' needs window", "put 'shots' or 'windows' before it"]),
        (source("endpoints", "windows", payload=H264), ["stages[0]", "put 'shots' or 'windows' before it"]),
        (source("sync", ingest="realestate10k"), ["needs synchronized", "available here: cameras, video"]),
    ],
)
def test_a_stage_whose_inputs_nothing_provides_is_refused_with_what_would(document, said):
    message = refusal(document)
    assert all(part in message for part in said), message


def test_what_only_layouts_provide_names_those_layouts():
    """No stage makes cameras: the way out is another layout, and the message must not leave the user without one."""
    message = refusal(source("view_groups"))
    assert all(repr(name) in message for name in ("realestate10k", "rig", "syncamvideo")), message


def test_stages_stand_from_cheap_to_dear():
    message = refusal(source("quality", "header"))
    assert "'header' (header tier) stands after 'quality' (pixels tier)" in message and "from cheap to dear" in message


def test_a_source_takes_one_sampler():
    message = refusal(source("windows", "view_groups", ingest="realestate10k", payload=H264))
    assert "one sampler" in message and "'view_groups' is the second" in message


def test_a_stage_that_stands_twice_is_refused():
    assert "'header' stands there twice" in refusal(source("header", {"header": {"min_views": 2}}))


def test_windows_cannot_be_copied():
    message = refusal(source("windows"))
    assert "windows start at any frame" in message and "codec: h264" in message
    assert bind(parse_recipe(source("windows", payload=H264)))


@pytest.mark.parametrize("ranking", [{"target_count": 3}, {"best_by": "sharpness"}])
def test_target_count_and_best_by_go_together(ranking):
    assert "target_count and best_by go together" in refusal(source("quality", **ranking))


@pytest.mark.parametrize(
    "settings", [{"windows": {"fps": 10, "stride": 2}}, {"view_groups": {"near": 5, "far": 1}}, {"view_groups": {"min_overlap": 1.5}}]
)
def test_settings_that_contradict_each_other(settings):
    (stage,) = settings
    assert f"stages[0].{stage}" in refusal(source(settings, ingest="realestate10k", payload=H264))


def test_a_stage_of_ones_own_goes_by_module_and_class():
    mine = bind(parse_recipe(source("tests.engine.toy:Touchy")))["clips"]
    assert [stage.name for stage in mine.stages] == ["touchy"]
    assert "must be a class derived from" in refusal(source("tests.engine.toy:recipe"))
    assert "no stage 'tests.engine.toy:Tuchy'" in refusal(source("tests.engine.toy:Tuchy"))


def test_every_limit_of_every_stage_is_of_a_known_score():
    for name, stage in stages().items():
        for field in stage.Config.__dataclass_fields__.values():
            if "limit" in field.metadata:
                assert field.metadata["limit"][0] in SCORES, f"{name}.{field.name}"


def test_a_recipe_as_resolved_is_a_recipe_again():
    from pipeline.binding import resolved

    for name in shipped_recipes():
        recipe = load_recipe(name)
        plain = resolved(recipe, bind(recipe))
        again = parse_recipe(yaml.safe_load(yaml.safe_dump(plain)))
        assert resolved(again, bind(again)) == plain
