"""Saved weights come back bit for bit, and only onto what they were trained for."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.bases.registry import load_base
from pipeline.bases.wan import WanBase
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import WeightsError, load, load_weights, read_config, save

MakeBase = Callable[..., WanBase]


def randomised(model: SynCamModel) -> SynCamModel:
    for parameter in model.trained().values():
        parameter.data = torch.randn_like(parameter)
    return model


@pytest.fixture
def saved(small_wan: MakeBase, tmp_path: Path) -> Path:
    model = randomised(SynCamModel(small_wan(), ViewConfig(translation="metres")))
    save(tmp_path, model.trained(), model.config, "small-wan", {"step": 7, "objective": {"novel_view": 0.9}})
    return tmp_path


def test_round_trip(small_wan: MakeBase, saved: Path) -> None:
    config = read_config(saved)
    assert (config.base, config.family, config.dim, config.blocks) == ("small-wan", "wan", 32, 2)
    assert config.view == ViewConfig(translation="metres")
    assert config.extra == {"step": 7, "objective": {"novel_view": 0.9}}
    model = SynCamModel(small_wan(), config.view)
    load_weights(saved, model)
    stored = load_file(saved / "weights.safetensors")
    assert set(stored) == set(model.trained())
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.trained().items())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "weights.safetensors"]
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    save(saved, model.trained(), model.config, "small-wan", config.extra)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_half_precision_goes_into_full_and_back(small_wan: MakeBase, saved: Path) -> None:
    base = small_wan()
    base.transformer.to(torch.bfloat16)
    model = SynCamModel(base, ViewConfig(translation="metres"))
    load(saved, model)
    stored = load_file(saved / "weights.safetensors")
    assert all(torch.equal(parameter, stored[name].bfloat16()) for name, parameter in model.trained().items())


def test_cogvideox_weights_go_the_same_way(tmp_path: Path) -> None:
    base = load_base("cogvideox-2b", device="meta", codec=False, seed=0)
    names = {
        name: torch.zeros(1) if "cam_encoder.bias" not in name else torch.zeros(1920) for name in SynCamModel(base, ViewConfig()).trained()
    }
    save(tmp_path, names, ViewConfig(), "cogvideox-2b", {})
    config = read_config(tmp_path)
    assert (config.family, config.dim, config.blocks) == ("cogvideox", 1920, 30)


def test_a_wrong_base_is_named(small_wan: MakeBase, saved: Path) -> None:
    for base, size in ((small_wan(num_layers=3), "dim 32, 3 blocks"), (small_wan(num_attention_heads=3), "dim 48, 2 blocks")):
        model = randomised(SynCamModel(base, ViewConfig(translation="metres")))
        with pytest.raises(
            WeightsError,
            match=rf"trained on small-wan \(wan, dim 32, 2 blocks\), this base is small-wan \(wan, {size}\); give --base small-wan",
        ):
            load(saved, model)
    cogvideox = SynCamModel(load_base("cogvideox-2b", device="meta", codec=False, seed=0), ViewConfig(translation="metres"))
    with pytest.raises(WeightsError, match=r"this base is cogvideox-2b \(cogvideox, dim 1920, 30 blocks\)"):
        load(saved, cogvideox)


def test_another_architecture_is_named(small_wan: MakeBase, saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"trained with translation 'metres', not 'two_metres'; view_rope True, not False: build"):
        load(saved, SynCamModel(small_wan(), ViewConfig(view_rope=False)))


def test_tensors_that_do_not_fit_are_named_and_nothing_is_taken(small_wan: MakeBase, saved: Path) -> None:
    tensors = load_file(saved / "weights.safetensors")
    del tensors["blocks.1.projector.bias"]
    tensors["blocks.0.mvs_attn.to_q.weight"] = torch.zeros(32, 31)
    tensors["blocks.0.extra"] = torch.zeros(1)
    save_file(tensors, saved / "weights.safetensors")
    model = SynCamModel(small_wan(), ViewConfig(translation="metres"))
    before = {name: parameter.clone() for name, parameter in model.trained().items()}
    with pytest.raises(
        WeightsError,
        match=r"1 missing \(blocks.1.projector.bias\); 1 unexpected \(blocks.0.extra\); "
        r"1 misshapen \(blocks.0.mvs_attn.to_q.weight \[32, 31\], not \[32, 32\]\)",
    ):
        load(saved, model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.trained().items())


def edit(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **changes}))


def test_what_cannot_be_read_is_named(small_wan: MakeBase, saved: Path, tmp_path: Path) -> None:
    model = SynCamModel(small_wan(), ViewConfig(translation="metres"))
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"weights.safetensors cannot be read"):
        load(saved, model)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"weights.safetensors cannot be read"):
        load(saved, model)
    edit(saved, view={"camera": "polar"})
    with pytest.raises(WeightsError, match=r"'polar' is not one of 'extrinsics', 'plucker'"):
        load(saved, model)
    edit(saved, format=9)
    with pytest.raises(WeightsError, match=r"format 9, this version reads 1"):
        load(saved, model)
    (saved / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"weights .*: Expecting"):
        load(saved, model)
    (saved / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config.json; give a folder that training wrote, or the published step20000.ckpt"):
        load(saved, model)
    with pytest.raises(WeightsError, match=r"does not exist"):
        load_weights(tmp_path / "nowhere", model)


def test_a_disk_that_takes_no_more_leaves_the_older_weights(small_wan: MakeBase, saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = randomised(SynCamModel(small_wan(), ViewConfig()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"weights.safetensors cannot be written: .*File too large"):
            save(saved, model.trained(), model.config, "small-wan", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
