"""The model around a base: exactly the base at its start, and then only the added modules learn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.bases.wan import WanBase
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel

MakeBase = Callable[..., WanBase]
Inputs = dict[str, Tensor]
PER_BLOCK = {
    "cam_encoder.weight",
    "cam_encoder.bias",
    "projector.weight",
    "projector.bias",
    "modulation_mvs",
    *(f"mvs_attn.{layer}.{kind}" for layer in ("to_q", "to_k", "to_v", "to_out.0") for kind in ("weight", "bias")),
    "mvs_attn.norm_q.weight",
    "mvs_attn.norm_k.weight",
}


def inputs(views: int, size: tuple[int, int, int] = (3, 4, 6), samples: int = 2, camera: str = "extrinsics") -> Inputs:
    generator = torch.Generator().manual_seed(views)
    f, h, w = size
    shape = (samples, views, f, 12) if camera == "extrinsics" else (samples, views, f, h * w // 4, 6)
    return {
        "z": torch.randn(samples, views, 4, f, h, w, generator=generator),
        "t": torch.tensor([900.0, 123.5, 3.0])[:samples],
        "text": torch.randn(samples, 5, 12, generator=generator),
        "cameras": torch.randn(shape, generator=generator),
    }


def alone(base: WanBase, given: Inputs) -> Tensor:
    """What the base says of the same latents, with no view knowing of another."""
    z, views = given["z"], given["z"].shape[1]
    said = base.predict(z.flatten(0, 1), given["t"].repeat_interleave(views), given["text"].repeat_interleave(views, 0))
    return said.unflatten(0, z.shape[:2])


def trained_a_little(base: WanBase, config: ViewConfig | None = None) -> SynCamModel:
    model = SynCamModel(base, config or ViewConfig())
    generator = torch.Generator().manual_seed(7)
    for parameter in model.trained().values():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 4, 6), (2, 2, 10), (5, 14, 2)])
@pytest.mark.parametrize("camera", ["extrinsics", "plucker"])
def test_at_the_start_it_is_exactly_the_base(small_wan: MakeBase, views: int, size: tuple[int, int, int], camera: str) -> None:
    base, given = small_wan(), inputs(views, size, camera=camera)
    want = alone(base, given)
    model = SynCamModel(base, ViewConfig(camera=camera))
    assert torch.equal(model(**given), want)
    with torch.no_grad():
        assert torch.equal(model(**given), want)


def test_at_the_start_it_is_exactly_the_base_in_half_precision(small_wan: MakeBase) -> None:
    base, given = small_wan(), inputs(2)
    base.transformer.to(torch.bfloat16)
    want = alone(base, given)
    assert torch.equal(SynCamModel(base, ViewConfig())(**given), want)


def test_exactly_the_added_modules_train_and_the_projector_first(small_wan: MakeBase) -> None:
    base, given = small_wan(), inputs(2)
    own = {name: parameter.clone() for name, parameter in base.transformer.named_parameters()}
    model = SynCamModel(base, ViewConfig())
    trained = model.trained()
    assert set(trained) == {f"blocks.{i}.{name}" for i in range(2) for name in PER_BLOCK}
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    model(**given).square().mean().backward()
    for name, parameter in trained.items():  # the rest stands behind a projector of zeros
        assert bool(parameter.grad.any()) == ("projector" in name), name
    optimizer.step()
    optimizer.zero_grad()
    model(**given).square().mean().backward()
    # Softmax does not see a bias of the keys; everything else learns from the second step on.
    assert all(p.grad.any() for name, p in trained.items() if not name.endswith("to_k.bias"))
    model.detach()
    assert all(torch.equal(parameter, own[name]) for name, parameter in base.transformer.named_parameters())


def test_views_see_each_other_and_their_cameras_within_the_frame_and_sample(small_wan: MakeBase) -> None:
    base, given = small_wan(num_layers=1), inputs(3)
    model = trained_a_little(base)
    with torch.no_grad():
        said = model(**given)
        assert not torch.allclose(said, alone(base, given), atol=1e-3)
        for key in ("z", "cameras"):
            changed = dict(given)
            changed[key] = given[key].clone()
            changed[key][0, 2] += 1
            moved = (model(**changed) - said).abs().amax((2, 3, 4, 5))
            assert (moved[0] > 1e-4).all() and (moved[1] == 0).all()
        swapped = model(**{**given, "cameras": given["cameras"].flip(1)})
        assert (swapped - said).abs().max() > 1e-2


def test_with_one_block_frames_meet_only_through_the_base(small_wan: MakeBase) -> None:
    """View attention joins the views of one frame: a camera of frame 1 alone changes frame 1 alone (of one block's output)."""
    base, given = small_wan(num_layers=1), inputs(2)
    model = trained_a_little(base)
    changed = given["cameras"].clone()
    changed[:, 1, 1] += 1
    with torch.no_grad():
        moved = (model(**{**given, "cameras": changed}) - model(**given)).abs().amax((0, 2, 4, 5))
    assert (moved[:, [0, 2]] == 0).all() and (moved[:, 1] > 1e-4).all()


@pytest.mark.parametrize("view_rope", [True, False])
def test_the_order_of_the_views_matters_only_by_their_positions(small_wan: MakeBase, view_rope: bool) -> None:
    base, given = small_wan(), inputs(3)
    model = trained_a_little(base, ViewConfig(view_rope=view_rope))
    order = [2, 0, 1]
    with torch.no_grad():
        said = model(**given)[:, order]
        permuted = model(**{**given, "z": given["z"][:, order], "cameras": given["cameras"][:, order]})
    assert ((permuted - said).abs().max() < 1e-4) == (not view_rope)


def test_one_view_with_the_identity_camera_is_well_defined(small_wan: MakeBase) -> None:
    given = inputs(1)
    given["cameras"] = torch.eye(4)[:3].flatten().expand(2, 1, 3, 12)
    model = trained_a_little(small_wan())
    said = model(**given)
    assert said.isfinite().all()
    said.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.trained().values())


def test_a_sample_does_not_depend_on_its_batch(small_wan: MakeBase) -> None:
    model, given = trained_a_little(small_wan()), inputs(2, samples=3)
    with torch.no_grad():
        together = model(**given)
        single = torch.cat([model(**{key: value[i : i + 1] for key, value in given.items()}) for i in range(3)])
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(small_wan: MakeBase) -> None:
    grads = []
    for checkpointing in (False, True):
        base, given = small_wan(), inputs(2)
        model = trained_a_little(base)
        if checkpointing:
            base.transformer.enable_gradient_checkpointing()
        model(**given).square().mean().backward()
        grads.append({name: parameter.grad for name, parameter in model.trained().items()})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_disabled_and_detached_it_is_exactly_the_base(small_wan: MakeBase) -> None:
    base, given = small_wan(), inputs(2)
    blocks, want = list(base.blocks()), alone(small_wan(), given)
    model = trained_a_little(base)
    with torch.no_grad():
        said = model(**given)
        assert torch.equal(alone(base, given), want)  # the base used by itself, after a call of the model
        with model.disabled():
            assert torch.equal(model(**given), want)
        assert torch.equal(model(**given), said)
    model(**given)
    with model.disabled():
        assert torch.equal(alone(base, given), want)
    with pytest.raises(ValueError, match="small-wan already carries added modules; call detach"):
        SynCamModel(base, ViewConfig())
    model.detach()
    assert list(base.blocks()) == blocks
    assert torch.equal(alone(base, given), want)
    SynCamModel(base, ViewConfig())


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("z", (2, 2, 5, 3, 4, 6), r"latents must be \[samples, views, 4, f, h, w\] for small-wan, got \[2, 2, 5, 3, 4, 6\]"),
        ("z", (2, 4, 3, 4, 6), r"latents must be .* got \[2, 4, 3, 4, 6\]"),
        ("z", (2, 2, 4, 3, 5, 6), r"latents of 3x5x6 .* no whole number of small-wan's 1x2x2 patches"),
        ("z", (2, 2, 4, 0, 4, 6), r"latents of 0x4x6 .* no whole number"),
        ("t", (4,), r"timesteps must be \[2\], one a sample, got \[4\]"),
        ("text", (1, 5, 12), r"text must be \[2, tokens, 12\] for small-wan, got \[1, 5, 12\]"),
        ("text", (2, 5, 13), r"text must be \[2, tokens, 12\] for small-wan, got \[2, 5, 13\]"),
        ("cameras", (2, 3, 3, 12), r"cameras \(extrinsics\) .*: 3 views, not 2. They must be \[2, 2, 3, 12\] .* got \[2, 3, 3, 12\]"),
        ("cameras", (2, 2, 9, 12), r"9 latent frames, not 3"),
        ("cameras", (1, 2, 3, 16), r"1 samples, not 2; 16 numbers a camera, not 12"),
        ("cameras", (2, 2, 3, 6, 6), r"5 dimensions, not 4"),
    ],
)
def test_what_does_not_fit_is_named(small_wan: MakeBase, key: str, shape: tuple[int, ...], message: str) -> None:
    model = SynCamModel(small_wan(), ViewConfig())
    with pytest.raises(ValueError, match=message):
        model(**{**inputs(2), key: torch.zeros(shape)})


def test_rays_of_another_grid_are_named(small_wan: MakeBase) -> None:
    model = SynCamModel(small_wan(), ViewConfig(camera="plucker"))
    with pytest.raises(ValueError, match=r"cameras \(plucker\) do not fit the latents: 24 tokens a frame, not 6"):
        model(**{**inputs(2), "cameras": torch.zeros(2, 2, 3, 24, 6)})


def test_it_compiles_in_one_graph_without_changing_what_it_says(small_wan: MakeBase) -> None:
    model, given = trained_a_little(small_wan(num_layers=1)), inputs(2)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(**given), model(**given))
