"""One small curated folder: three multi-view scenes, view groups of a walk, two single-view clips; a shard for each scene."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.curate import main as curate
from pipeline.encode_latents import main as encode
from pipeline.studio import write_layout
from tests.e2e.output import write_recipe

SOURCES: dict[str, Any] = {
    "syncamvideo": {"stages": [{"view_angles": {"angle": "parallax"}}], "payload": {"video": "copy"}},
    "realestate10k": {"stages": [{"view_groups": {"views": 3, "groups": 2, "min_overlap": 0.3}}], "payload": {"image": "png"}},
    "clips": {"stages": [{"header": {"min_frames": 6}}], "payload": {"video": "copy"}},
}


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encode")
    footage = folder / "footage"
    write_layout("syncamvideo-v2", footage / "sync", scenes=3, cameras=3, frames=9, size=(96, 72))
    write_layout("realestate10k", footage / "re10k", scenes=1, frames=8, size=(128, 72))
    write_layout("clips", footage / "clips", scenes=2, frames=11, size=(128, 72))
    for path in (footage / "clips").glob("bad_*"):
        path.unlink()
    recipe = write_recipe(folder / "small.yaml", SOURCES, shards={"target_mb": 0.02})
    inputs = [f"--input=syncamvideo={footage / 'sync'}", f"--input=realestate10k={footage / 're10k'}", f"--input=clips={footage / 'clips'}"]
    assert curate([str(recipe), *inputs, f"--output={folder / 'out'}", "--executor=inline", "--quiet", "--no-report"]) == 0
    return folder / "out"


@pytest.fixture(scope="session")
def encoded(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("latents") / "out"
    assert encode([f"--data={curated}", f"--output={output}", "--base=tiny", "--size=64x64", "--quiet"]) == 0
    return output


def run_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())
