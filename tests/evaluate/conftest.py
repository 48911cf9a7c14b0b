"""Four small scenes of two cameras, curated; and weights of added modules for the tiny base: as they begin, and disturbed."""

from pathlib import Path

import pytest
import torch

from pipeline.bases.registry import load_base
from pipeline.curate import main as curate
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import save
from pipeline.studio import write_layout
from tests.e2e.output import write_recipe


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_layout("syncamvideo-v2", folder / "footage", scenes=4, cameras=3, frames=4, size=(48, 48))
    recipe = write_recipe(
        folder / "small.yaml",
        {"syncamvideo": {"stages": [{"view_angles": {"angle": "parallax"}}], "payload": {"video": "copy"}}},
        shards={"target_mb": 0.001},
    )
    arguments = [str(recipe), f"--input=syncamvideo={folder / 'footage'}", f"--output={folder / 'out'}"]
    assert curate([*arguments, "--executor=inline", "--quiet", "--no-report"]) == 0
    return folder / "out"


def write_weights(folder: Path, seed: int | None) -> Path:
    """seed None: as training begins, an exact no-op. Else every added parameter disturbed by it."""
    model = SynCamModel(load_base("tiny"), ViewConfig())
    tensors = {name: parameter.detach().clone() for name, parameter in model.trained().items()}
    if seed is not None:
        rng = torch.Generator().manual_seed(seed)
        tensors = {name: tensor + 0.2 * torch.randn(tensor.shape, generator=rng) for name, tensor in tensors.items()}
    folder.mkdir(parents=True)
    save(folder, tensors, model.config, "tiny", {"size": [32, 32], "frames": 3, "views": 2})
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "none", None)


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weights")
    return [write_weights(folder / f"seed{seed}", seed) for seed in range(2)]
