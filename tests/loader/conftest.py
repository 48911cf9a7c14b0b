"""One small output folder of pipeline.curate for the session: multi-camera video, view groups as pictures, single clips."""

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.curate import main as curate
from pipeline.studio import write_layout

RECIPE = {
    "name": "loader",
    "units": {"size": 3},
    "shards": {"target_mb": 0.2},
    "sources": {
        "syncamvideo": {"license": "x", "stages": [{"view_angles": {"angle": "parallax"}}]},
        "realestate10k": {
            "license": "x",
            "stages": [{"view_groups": {"views": 3, "groups": 3, "min_overlap": 0.3}}],
            "payload": {"image": "png"},
        },
        "clips": {"license": "x", "stages": []},
    },
}


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was curated: syncamvideo, realestate10k and clips below one folder."""
    folder = tmp_path_factory.mktemp("footage")
    write_layout("syncamvideo-v1", folder / "syncamvideo", scenes=6, cameras=4, frames=9, size=(96, 64))
    write_layout("realestate10k", folder / "realestate10k", scenes=1, frames=40, size=(96, 54))
    write_layout("clips", folder / "clips", scenes=2, frames=20, size=(96, 64))
    return folder


@pytest.fixture(scope="session")
def curated(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder. Not to be changed: see `copied`."""
    folder = tmp_path_factory.mktemp("curated")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    inputs = [f"--input={name}={footage / name}" for name in RECIPE["sources"]]
    assert curate([str(recipe), *inputs, f"--output={folder / 'out'}", "--error-budget=0.9", "--quiet"]) == 0
    return folder / "out"


@pytest.fixture
def copied(curated: Path, tmp_path: Path) -> Path:
    """A copy of the output folder, to be damaged."""
    return Path(shutil.copytree(curated, tmp_path / "out"))
