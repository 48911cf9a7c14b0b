"""The docs name everything that there is, with the defaults that it has, and nothing that is gone."""

import argparse
import dataclasses
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import audit, curate, encode_latents, evaluate, infer, train
from pipeline.bases.registry import NAMED
from pipeline.binding import load_recipe, shipped_recipes
from pipeline.encoding.settings import Encoding
from pipeline.loader.batch import KINDS
from pipeline.loader.settings import LoaderSettings
from pipeline.methods.registry import TRAINING as TRAINED
from pipeline.methods.syncammaster import evaluation, weights
from pipeline.methods.syncammaster.config import ObjectiveConfig, ViewConfig
from pipeline.studio import __main__ as studio
from pipeline.training.settings import FREE, TrainSettings
from pipeline.viewpoints import PRESETS
from schemas import manifest
from schemas.recipe import Encode, MediaLimits, Payload, Recipe, Shards, SourceSpec, Units, parse_recipe
from schemas.scores import SCORES
from schemas.verdict import REASON_TEXT, Reason, Status
from stages.ingest import ingests
from stages.ingest.rig_json import parse_rig
from stages.registry import stages

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md")])


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """From a heading to the next one of its level or above."""
    level = heading.split(" ")[0]
    lines = text(page).splitlines()
    start = lines.index(heading)
    end = next((i for i in range(start + 1, len(lines)) if re.match(rf"#{{1,{len(level)}}} ", lines[i])), len(lines))
    return "\n".join(lines[start:end])


def table(body: str) -> dict[str, str]:
    """Name to the cell beside it, of every row whose first cell is a name in backquotes."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines() if line.startswith("| `")]
    return {name.strip("`"): row[1].strip("`") for row in rows for name in row[0].split(", ")}


def shown(value: Any) -> set[str]:
    """How a default may be written."""
    if value is None:
        return {"off", "null"}
    if isinstance(value, bool):
        return {str(value).lower()}
    if value in ((), {}):
        return {"[]", "{}"}
    if isinstance(value, str):
        return {value, f'"{value}"'}
    return {str(value), repr(value)}


def fields(config: Any) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(config):
        if each.default is not dataclasses.MISSING:
            yield each.name, each.default


SETTINGS = [
    *(("docs/recipes.md", f"### `{name}`", stage.Config) for name, stage in stages().items()),
    *(("docs/datasets.md", f"## `{name}`", ingest.Options) for name, ingest in ingests().items()),
    ("docs/recipes.md", "### `units`", Units),
    ("docs/recipes.md", "### `shards`", Shards),
    ("docs/recipes.md", "### `media`", MediaLimits),
    ("docs/recipes.md", "### `payload`", Encode),
    ("docs/recipes.md", "### `payload`", Payload),
    ("docs/recipes.md", "## A source", SourceSpec),
    ("docs/recipes.md", "## Top level", Recipe),
]


@pytest.mark.parametrize(("page", "heading", "config"), SETTINGS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_setting_is_listed_with_its_default(page: str, heading: str, config: Any) -> None:
    rows = table(section(page, heading))
    assert {each.name for each in dataclasses.fields(config)} <= set(rows)
    for name, default in fields(config):
        if name != "extensions":  # a list, which stands once at the head of the page
            assert rows[name] in shown(default), f"{page}, {heading}: {name} is {default!r}, the page says {rows[name]!r}"


@pytest.mark.parametrize(("name", "stage"), stages().items(), ids=str)
def test_stages_are_listed_with_their_limits_and_no_others(name: str, stage: Any) -> None:
    body = section("docs/recipes.md", f"### `{name}`")
    assert set(table(body)) == {each.name for each in dataclasses.fields(stage.Config)}
    assert ("Sampler" if "Sampler" in {base.__name__ for base in stage.__mro__} else "Scorer") in body
    for each in dataclasses.fields(stage.Config):
        if (declared := each.metadata.get("limit")) is not None:
            score, op, reason = declared
            row = next(line for line in body.splitlines() if line.startswith(f"| `{each.name}` |"))
            assert f"`{score}` {op} it" in row and row.endswith(f"| `{reason}` |"), row


def test_the_video_extensions_are_those_we_read() -> None:
    from stages.ingest.files import VIDEO_EXTENSIONS

    assert f"`{' '.join(VIDEO_EXTENSIONS)}`" in text("docs/datasets.md")


def test_the_manifest_page_has_every_column_score_status_and_reason_and_no_other() -> None:
    page = "docs/manifest.md"
    pairs, scores = section(page, "### `pairs`"), section(page, "### `scores`")
    own = section(page, "## `samples`").replace(pairs, "").replace(scores, "")
    assert list(table(own)) == manifest.SAMPLES.names
    assert list(table(pairs)) == [field.name for field in manifest.PAIR]
    assert table(scores) == {name: score.unit for name, score in SCORES.items()}
    assert table(section(page, "## Reasons")) == {str(reason): REASON_TEXT[reason] for reason in Reason}
    assert list(table(section(page, "## `shards`"))) == manifest.SHARDS.names
    assert list(table(section(page, "## `units`"))) == manifest.UNITS.names
    assert set(table(section(page, "## Rows"))) == {str(status) for status in Status} | {"status"}
    assert {field.name for field in manifest.MEMBER} <= set(re.findall(r"`(\w+)`", section(page, "## `shards`")))
    assert all(f"`{name}`" in own for name in manifest.ANGLE_BINS)


def options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= {name for name in action.option_strings if name.startswith("--")} - {"--help"}
    return found


def test_every_option_of_curate_is_in_the_readme_and_no_other() -> None:
    of_ray = {"--head", "--dashboard-host", "--disable-usage-stats", "--address", "--working-dir"}
    elsewhere = section("README.md", "## Train and generate")  # docs/training.md has those
    assert options(curate._parser()) == set(OPTION.findall(text("README.md").replace(elsewhere, ""))) - of_ray


def test_every_audit_verb_is_in_the_readme() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        audit.main(["--help"])
    (verbs,) = re.findall(r"\{([a-z,-]+)\}", printed.getvalue())[:1]
    for verb in verbs.split(","):
        assert re.search(rf"audit {verb} out", text("README.md")), verb


def test_shipped_recipes_and_layouts_are_named() -> None:
    listed = table(section("docs/recipes.md", "# Recipes").split("## ")[0])
    assert set(listed) - {"recipe"} == set(shipped_recipes())
    for name in shipped_recipes():
        row = next(line for line in text("docs/recipes.md").splitlines() if line.startswith(f"| `{name}` |"))
        assert set(re.findall(r"`(\w+)`", row.split(" | ")[-1])) == set(load_recipe(name).sources)
        assert f"`{name}`" in text("README.md")
    assert set(table(section("README.md", "## Your own footage"))) == set(ingests())
    assert "--output" in options(studio.parser())


def test_yaml_and_json_examples_are_accepted() -> None:
    import json

    import yaml

    for page in ("docs/recipes.md", "docs/architecture.md"):
        for example in re.findall(r"```yaml\n(.*?)```", text(page), re.DOTALL):
            assert parse_recipe(yaml.safe_load(example)).sources
    (example,) = re.findall(r"```json\n(.*?)```", text("docs/datasets.md"), re.DOTALL)
    assert np.allclose(parse_rig(json.loads(example))["cam01"].c2w[0], np.eye(4))


TRAINING = "docs/training.md"
COMMANDS = {
    "## `train`": (train.main, ["syncammaster"]),
    "## `encode_latents`": (encode_latents.main, []),
    "## `infer`": (infer.main, ["syncammaster"]),
    "## `evaluate`": (evaluate.main, ["syncammaster"]),
    "## The published checkpoint": (weights.main, ["import"]),
}


@pytest.mark.parametrize("heading", COMMANDS)
def test_every_option_of_the_training_commands_is_listed_and_no_other(heading: str) -> None:
    main, arguments = COMMANDS[heading]
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        main([*arguments, "--help"])
    names = re.findall(r"^  (-.*?)(?:  |$)", printed.getvalue().split("examples:")[0], re.MULTILINE)
    offered = set(OPTION.findall("\n".join(names))) - {"--help"}
    assert {name for name in table(section(TRAINING, heading)) if name.startswith("--")} == offered


def written(value: Any) -> str:
    """A default as the option takes it."""
    if value is None or value is False:
        return "off"
    if isinstance(value, dict):
        return ",".join(f"{kind}={share:g}" for kind, share in value.items())
    if isinstance(value, tuple) and dataclasses.is_dataclass(value[0]):
        return ",".join(f"{phase.start}:{phase.low:g}-{phase.high:g}" for phase in value)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("settings", [LoaderSettings, TrainSettings, ViewConfig, ObjectiveConfig], ids=lambda each: each.__name__)
def test_every_setting_of_training_is_an_option_with_its_default(settings: Any) -> None:
    rows = table(section(TRAINING, "## `train`"))
    for each in dataclasses.fields(settings):
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        name = f"--{each.name.replace('_', '-')}"
        if each.name == "view_rope":
            assert default is True and rows["--no-view-rope"] == "off"
        elif default is dataclasses.MISSING:
            assert each.name == "method" or rows[name] == "required"
        elif each.name not in ("loader", "options", "init_weights_sha256"):  # made of the others
            assert rows[name] == written(default), name


def test_what_training_reads_builds_on_and_offers_is_named() -> None:
    assert set(table(section(TRAINING, "## Methods"))) == set(TRAINED)
    sources = {name: source or "none: random weights" for name, (_, source) in NAMED.items()}
    assert table(section(TRAINING, "## Bases")) == sources
    presets = {name: ",".join(f"{key}={value:g}" for key, value in own.items()) for name, (_, own, _) in PRESETS.items()}
    assert presets.items() <= table(section(TRAINING, "## `infer`")).items()
    assert all(f"`{kind}`" in section(TRAINING, "## Data") for kind in KINDS)
    (resuming,) = re.findall(r"may change:\n(.*?)\n\n", text(TRAINING), re.DOTALL)
    assert set(OPTION.findall(resuming)) == {f"--{name.replace('_', '-')}" for name in FREE}
    assert list(table(section(TRAINING, "### `results.parquet`"))) == evaluation._ROWS.names
    assert all(f"`{name}`" in section(TRAINING, "## `evaluate`") for name in (evaluation.FULL, *evaluation.COMPARED))
    assert list(table(section("docs/manifest.md", "### `encoding`"))) == [each.name for each in dataclasses.fields(Encoding)]


def test_python_in_the_training_page_names_what_there_is() -> None:
    for example in re.findall(r"```python\n(.*?)```", text(TRAINING), re.DOTALL):
        imports = [line for line in example.splitlines() if line.startswith(("from ", "import "))]
        assert imports
        exec(compile("\n".join(imports), TRAINING, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).is_file(), target
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 300_000
