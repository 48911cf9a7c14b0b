"""The published Wan checkpoint, built here with random tensors: taking it up equals setting every module by hand."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.bases.registry import load_base
from pipeline.bases.wan import WanBase
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import WeightsError, import_official, load_weights, main, read_config

MakeBase = Callable[..., WanBase]
State = dict[str, Tensor]


def published(base: WanBase) -> State:
    """The released model's state: names and shapes of its training script (DiffSynth), the base's own beside random added ones."""
    generator = torch.Generator().manual_seed(5)
    d = base.spec.dim

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device="meta") if base.device.type == "meta" else torch.randn(shape, generator=generator)

    state = {"patch_embedding.weight": base.transformer.patch_embedding.weight, "head.modulation": torch.zeros(1, 2, d)}
    for i, block in enumerate(base.blocks()):
        state[f"blocks.{i}.self_attn.q.weight"] = block.attn1.to_q.weight
        state[f"blocks.{i}.modulation"] = block.scale_shift_table
        added = {"cam_encoder.weight": (d, 12), "cam_encoder.bias": (d,), "projector.weight": (d, d), "projector.bias": (d,)}
        added |= {"modulation_mvs": (1, 3, d), "mvs_attn.norm_q.weight": (d,), "mvs_attn.norm_k.weight": (d,)}
        added |= {f"mvs_attn.{layer}.weight": (d, d) for layer in "qkvo"} | {f"mvs_attn.{layer}.bias": (d,) for layer in "qkvo"}
        for name, shape in added.items():
            state[f"blocks.{i}.{name}"] = random(shape)
    return {name: tensor.detach() for name, tensor in state.items()}


def set_by_hand(model: SynCamModel, state: State) -> None:
    for i, block in enumerate(model.base.blocks()):
        view, at = block.view, f"blocks.{i}."

        def put(layer: nn.Module, name: str, at: str = at) -> None:
            layer.weight = nn.Parameter(state[f"{at}{name}.weight"])
            if f"{at}{name}.bias" in state:
                layer.bias = nn.Parameter(state[f"{at}{name}.bias"])

        put(view.cam_encoder, "cam_encoder")
        put(view.projector, "projector")
        put(view.mvs_attn.to_q, "mvs_attn.q")
        put(view.mvs_attn.to_k, "mvs_attn.k")
        put(view.mvs_attn.to_v, "mvs_attn.v")
        put(view.mvs_attn.to_out[0], "mvs_attn.o")
        put(view.mvs_attn.norm_q, "mvs_attn.norm_q")
        put(view.mvs_attn.norm_k, "mvs_attn.norm_k")
        view.modulation_mvs = nn.Parameter(state[f"{at}modulation_mvs"])


def plain(state: State) -> object:
    return state


def nested(state: State) -> object:
    return {"step": 20000, "state_dict": {f"pipe.dit.{name}": tensor for name, tensor in state.items()}}


def deepspeed(state: State) -> object:
    return {"module": {f"module.{name}": tensor for name, tensor in state.items()} | {"module.counter": 3}, "epoch": 2}


@pytest.mark.parametrize("layout", [plain, nested, deepspeed])
@pytest.mark.parametrize("zipped", [True, False])
def test_it_says_what_a_model_set_by_hand_says(small_wan: MakeBase, tmp_path: Path, layout: Callable, zipped: bool, caplog) -> None:
    state = published(small_wan())
    path = tmp_path / "step20000.ckpt"
    torch.save(layout(state), path, _use_new_zipfile_serialization=zipped)
    config = read_config(path)
    assert (config.base, config.view) == ("wan2.1-1.3b", ViewConfig(camera="extrinsics", translation="two_metres", view_rope=True))
    model, by_hand = SynCamModel(small_wan(), config.view), SynCamModel(small_wan(), ViewConfig())
    load_weights(path, model)
    set_by_hand(by_hand, state)
    given = (torch.randn(1, 2, 4, 3, 4, 6), torch.tensor([700.0]), torch.randn(1, 5, 12), torch.randn(1, 2, 3, 12))
    with torch.no_grad():
        said = model(*given)
        assert torch.equal(said, by_hand(*given))
        with model.disabled():
            assert (model(*given) - said).abs().max() > 1e-2
    assert not caplog.records


def test_names_and_shapes_of_the_true_model() -> None:
    """On the meta device: what the published file holds is exactly what the 1.3B model trains."""
    base = load_base("wan2.1-1.3b", device="meta", codec=False, seed=0)
    state = published(base)
    wanted = {name: parameter.shape for name, parameter in SynCamModel(base, ViewConfig()).trained().items()}
    layers = {".mvs_attn.q.": ".mvs_attn.to_q.", ".mvs_attn.k.": ".mvs_attn.to_k.", ".mvs_attn.v.": ".mvs_attn.to_v."}
    layers[".mvs_attn.o."] = ".mvs_attn.to_out.0."
    found = {}
    for name, tensor in state.items():
        if any(part in name for part in ("cam_encoder", "projector", "mvs")):
            for theirs, ours in layers.items():
                name = name.replace(theirs, ours)
            found[name] = tensor.shape
    assert found == wanted
    assert sum(shape.numel() for shape in found.values()) == 354_954_240


def test_missing_and_misshapen_tensors_are_named(small_wan: MakeBase, tmp_path: Path) -> None:
    base = small_wan()
    state = published(base)
    del state["blocks.1.mvs_attn.o.bias"]
    state["blocks.0.projector.weight"] = torch.zeros(32, 16)
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(
        WeightsError,
        match=r"a.ckpt: .* 1 missing \(blocks.1.mvs_attn.to_out.0.bias\); "
        r"1 misshapen \(blocks.0.projector.weight \[32, 16\], not \[32, 32\]\)",
    ):
        import_official(tmp_path / "a.ckpt", base)


def test_another_base_is_named(small_wan: MakeBase, tmp_path: Path, caplog) -> None:
    torch.save(published(small_wan()), tmp_path / "a.ckpt")
    with pytest.raises(
        WeightsError, match=r"trained on wan2.1-1.3b \(wan, dim 32, 2 blocks\), this base is small-wan \(wan, dim 32, 3 blocks\)"
    ):
        import_official(tmp_path / "a.ckpt", small_wan(num_layers=3))
    with caplog.at_level(logging.WARNING):
        import_official(tmp_path / "a.ckpt", small_wan(seed=1))
    assert "trained on other base weights than small-wan has (patch_embedding.weight, " in caplog.text


def test_half_precision_is_the_same_base(small_wan: MakeBase, tmp_path: Path, caplog) -> None:
    torch.save({name: tensor.bfloat16() for name, tensor in published(small_wan()).items()}, tmp_path / "a.ckpt")
    import_official(tmp_path / "a.ckpt", small_wan())
    assert not caplog.records


class Hostile:
    def __reduce__(self) -> tuple:
        return (print, ("this code ran",))


def test_files_that_are_something_else_are_refused(small_wan: MakeBase, tmp_path: Path, capsys) -> None:
    base = small_wan()
    path = tmp_path / "a.ckpt"
    torch.save({"blocks.0.self_attn.q.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"no SynCamMaster weights; looked for 'blocks.0.cam_encoder.weight', found blocks.0.self_attn"):
        import_official(path, base)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match=r"no SynCamMaster weights.*no names at all"):
        import_official(path, base)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a.ckpt cannot be read as a torch checkpoint"):
        import_official(path, base)
    torch.save(published(base), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"a.ckpt cannot be read as a torch checkpoint"):
        import_official(path, base)
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(WeightsError, match=r"a.ckpt cannot be read as a torch checkpoint of nothing but tensors: Weights only load failed"):
        import_official(path, base)
    assert "this code ran" not in capsys.readouterr().out


def test_the_command_converts(small_wan: MakeBase, tmp_path: Path, capsys) -> None:
    base = small_wan()
    source, output = tmp_path / "base", tmp_path / "out" / "official"
    base.transformer.save_pretrained(source / "transformer")
    (source / "model_index.json").write_text('{"transformer": ["diffusers", "WanTransformer3DModel"]}')
    path = tmp_path / "step20000.ckpt"
    torch.save(published(base), path)
    arguments = ["import", str(path), "--base", str(source), "--output", str(output)]
    assert main(arguments) == 0
    assert "ready for --weights" in capsys.readouterr().out
    direct, converted = (SynCamModel(small_wan(), ViewConfig()) for _ in range(2))
    load_weights(path, direct)
    load_weights(output, converted)
    assert all(torch.equal(a, b) for a, b in zip(direct.trained().values(), converted.trained().values(), strict=True))
    assert read_config(output).base == str(source)
    assert [entry.name for entry in output.parent.iterdir()] == ["official"]
    assert main(arguments) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none"), "--output", str(tmp_path / "o")]) == 2
    path.write_bytes(b"junk")
    assert main(["import", str(path), "--base", str(source), "--output", str(tmp_path / "o")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
