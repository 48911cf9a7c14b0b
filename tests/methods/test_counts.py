"""The added parameters at the published sizes, on the meta device."""

import pytest
import torch
from torch import nn

from pipeline.bases.base import Base
from pipeline.bases.registry import load_base
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "blocks", "added"), [("cogvideox-2b", 30, 731_412_480), ("wan2.1-1.3b", 30, 354_954_240)])
def test_added_parameters(name: str, blocks: int, added: int) -> None:
    base: Base = load_base(name, device="meta", codec=False, seed=0)
    own = {key: parameter.shape for key, parameter in base.transformer.named_parameters()}
    before = list(base.blocks())
    assert len(before) == blocks
    model = SynCamModel(base, ViewConfig())
    assert sum(parameter.numel() for parameter in model.trained().values()) == added
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == added  # the base is frozen
    assert all(parameter.device == torch.device("meta") for parameter in model.parameters())
    assert [wrapped.block for wrapped in base.blocks()] == before
    model.detach()
    assert {key: parameter.shape for key, parameter in base.transformer.named_parameters()} == own
    assert list(base.blocks()) == before


def test_the_sizes_of_5b() -> None:
    base = load_base("cogvideox-5b", device="meta", codec=False, seed=0)
    assert (base.spec.dim, len(base.blocks())) == (3072, 42)
    assert base.positions((13, 30, 45), torch.device("cpu"))[0].shape == (13 * 30 * 45, 64)
    model = SynCamModel(base, ViewConfig())
    dim, time = 3072, 512
    norm, attention = 6 * dim * (time + 1) + 2 * dim, 4 * dim * (dim + 1) + 4 * 64
    assert sum(p.numel() for p in model.trained().values()) == 42 * (norm + attention + 13 * dim + dim * (dim + 1))


def test_plucker_rays_widen_nothing_but_the_camera_encoder() -> None:
    model = SynCamModel(load_base("cogvideox-2b", device="meta", codec=False, seed=0), ViewConfig(camera="plucker"))
    assert sum(p.numel() for p in model.trained().values()) == 731_412_480 - 30 * 6 * 1920
