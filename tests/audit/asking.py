"""Curate, ask what other limits would keep, and compare the answer with a run."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml

from pipeline.audit import main as audit
from pipeline.curate import main as curate


def run(folder: Path, recipe: dict[str, Any], *more: str, footage: Path, output: str = "out") -> int:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    inputs = [f"--input={name}={footage}" for name in recipe["sources"]]
    options = ["--executor=inline", "--error-budget=1", "--quiet", "--no-report"]
    return curate([str(folder / "recipe.yaml"), *inputs, f"--output={folder / output}", *options, *more])


def changed(recipe: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The recipe as its author would write it with these limits."""
    new = copy.deepcopy(recipe)
    for setting in settings:
        place, _, value = setting.partition("=")
        *source, stage, key = place.split(".")
        for name, spec in new["sources"].items():
            for each in spec["stages"]:
                for listed, own in each.items():
                    if listed.lower().split(":")[-1] == stage and name in (source or [name]):
                        own[key] = None if value == "off" else float(value)
    return new


def rows(output: Path) -> dict[str, dict[str, Any]]:
    columns = ["sample_id", "parent_id", "source", "status", "reasons", "stopped_at", "is_sample"]
    return {row["sample_id"]: row for row in ds.dataset(output / "manifest" / "samples").to_table(columns).to_pylist()}


def ask(output: Path, settings: list[str], name: str = "asked") -> list[dict[str, Any]]:
    """The selection's rows."""
    assert audit(["what-if", str(output), *(f"--set={each}" for each in settings), f"--write={name}"]) == 0
    return pq.read_table(output / "selections" / f"{name}.parquet").to_pylist()


def same_as(answer: list[dict[str, Any]], rerun: dict[str, dict[str, Any]]) -> Counter[str]:
    """Compare row for row; returns how many rows went which way."""
    flips: Counter[str] = Counter()
    for row in answer:
        flips[f"{row['was']}->{row['status']}"] += 1
        then = rerun.get(row["sample_id"])
        if row["status"] == "gone":
            assert then is None, row
        elif row["status"] != "unknown":
            said = {name: row[name] for name in ("status", "reasons", "stopped_at")}
            assert then is not None and said == {name: then[name] for name in said}, row
    unknown = {row["sample_id"] for row in answer if row["status"] == "unknown"}
    for name in set(rerun) - {row["sample_id"] for row in answer}:
        assert rerun[name]["parent_id"] in unknown, f"{name} has come from nowhere"
    return flips


def turned(flips: Counter[str]) -> set[str]:
    return {flip for flip in flips if len(set(flip.split("->"))) == 2}


GRADED = "tests.audit.graded"
WHOLE = ("cheap", "seen", "sharp", "dear")


def graded(stages: tuple[str, ...], limits: dict[tuple[str, str], float | None], **source: object) -> dict[str, Any]:
    """A recipe of the stages in tests.audit.graded over the toy's numbers."""
    own = [{f"{GRADED}:{stage.title()}": {key: value for (of, key), value in limits.items() if of == stage}} for stage in stages]
    return {
        "name": "graded",
        "units": {"size": 13},
        "sources": {"numbers": {"ingest": "tests.engine.toy:Numbers", "stages": own, **source}},
    }
