"""The stages by name, and what the rest of the pipeline takes for granted about each."""

import dataclasses
import subprocess
import sys

import pytest

from schemas.typed import build
from stages.registry import stages
from stages.stage import Sampler, Scorer, Stage

NAMES = {
    "header",
    "sync",
    "view_angles",
    "view_groups",
    "shots",
    "windows",
    "endpoints",
    "quality",
    "fingerprint",
    "masks",
    "motion",
    "lines",
    "poses",
    "depth",
    "known_depth",
}
INPUTS = {"video", "cameras", "synchronized", "masks", "view_group", "window"}


def test_every_stage_is_there_by_its_own_name() -> None:
    assert {name: stage.name for name, stage in stages().items()} == {name: name for name in NAMES}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_stage_keeps_the_contract(name: str) -> None:
    stage = stages()[name]
    assert issubclass(stage, Sampler | Scorer) and stage.needs <= INPUTS and stage.version >= 1
    assert dataclasses.is_dataclass(stage.Config)
    made: Stage = stage(build(stage.Config, {}, "recipe"))
    assert made.decide({}) == []  # nothing computed, nothing to judge
    limits = [field.name for field in dataclasses.fields(stage.Config) if "limit" in field.metadata]
    off: Stage = stage(build(stage.Config, dict.fromkeys(limits), "recipe"))
    assert off.limits() == []
    assert not set(limits) & set(off.compute_settings())


def test_importing_the_registry_loads_no_stage_and_no_heavy_package() -> None:
    code = "import sys, stages.registry; print(sorted({'torch', 'ray', 'av', 'cv2', 'stages.quality'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
