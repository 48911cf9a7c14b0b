"""One small curated folder: two scenes of three cameras, and single clips."""

from pathlib import Path

import pytest
import yaml

from pipeline.curate import main as curate
from pipeline.studio import write_layout

_RECIPE = {
    "name": "training",
    "sources": {
        "syncamvideo": {"license": "x", "stages": [{"view_angles": {"angle": "parallax"}}]},
        "clips": {"license": "x", "stages": []},
    },
}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder of pipeline.curate. Not to be changed."""
    folder = tmp_path_factory.mktemp("shards")
    write_layout("syncamvideo-v1", folder / "syncamvideo", scenes=2, cameras=3, frames=5, size=(64, 64))
    write_layout("clips", folder / "clips", scenes=1, frames=8, size=(64, 64))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_RECIPE))
    inputs = [f"--input={name}={folder / name}" for name in _RECIPE["sources"]]
    assert curate([str(folder / "recipe.yaml"), *inputs, f"--output={folder / 'out'}", "--error-budget=0.9", "--quiet"]) == 0
    return folder / "out"
