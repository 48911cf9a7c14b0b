"""CogVideoX with views: the added modules against the base and against a plain reference of the release."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pipeline.methods.syncammaster.cogvideox import CogVideoXViewBlock, view_rotary
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext
from pipeline.methods.syncammaster.model import SynCamModel
from tests.methods.cogvideox_small import awaken, draw, make_base


@pytest.fixture(params=["sincos", "rotary"])
def rotary(request) -> bool:
    return request.param == "rotary"


@pytest.mark.parametrize(("views", "size"), [(1, (3, 6, 8)), (2, (1, 4, 10)), (3, (2, 8, 4))])
def test_at_its_start_the_model_says_exactly_what_the_base_says(rotary: bool, views: int, size) -> None:
    base = make_base(rotary)
    inputs = draw(base, 2, views, size)
    singly = (inputs["z"].flatten(0, 1), inputs["t"].repeat_interleave(views), inputs["text"].repeat_interleave(views, 0))
    alone = base.predict(*singly).unflatten(0, (2, views))
    for config in (ViewConfig(), ViewConfig(text_per_view=True), ViewConfig(view_rope=False)):
        model = SynCamModel(base, config)
        assert torch.equal(model(**inputs), alone)
        awaken(model)
        assert not torch.equal(model(**inputs), alone)
        with model.disabled():
            assert torch.equal(model(**inputs), alone)
        model.detach()
        assert torch.equal(base.predict(*singly).unflatten(0, (2, views)), alone)


def test_gradients_at_the_start(rotary: bool) -> None:
    """The projector moves first, for nothing else reaches the output; then everything that trains does."""
    base = make_base(rotary)
    model = SynCamModel(base, ViewConfig())
    inputs = draw(base, 1, 2, (2, 6, 8))
    for step in (1, 2):
        model.zero_grad()
        model(**inputs).square().sum().backward()
        for name, parameter in model.trained().items():
            moving = "projector" in name or step == 2
            if not (moving and name.endswith("norm_k.bias")):  # it moves all scores of a query alike: no gradient but rounding
                assert bool(parameter.grad.abs().max() > 0) == moving, (step, name)
            parameter.data -= 1e-3 * parameter.grad
    assert all(parameter.grad is None for parameter in base.transformer.parameters() if not parameter.requires_grad)


def published(view: nn.Module, hidden: Tensor, text: Tensor, temb: Tensor, context: ViewContext) -> Tensor:
    """The release's arrangement, plainly: the text of every view, repeated for every frame, in a joint attention."""
    views, (f, h, w) = context.views, context.grid
    x, told, gate, _ = view.norm_syncam(hidden, text, temb)
    cameras = view.cam_encoder(context.cameras)
    cameras = cameras.unsqueeze(3).expand(-1, -1, -1, h * w, -1) if cameras.ndim == 4 else cameras
    x = x + cameras.flatten(2, 3).flatten(0, 1)
    samples = len(x) // views
    x = x.reshape(samples, views, f, h * w, -1).permute(0, 2, 1, 3, 4).reshape(samples * f, views * h * w, -1)
    told = told.reshape(samples, -1, told.shape[-1])
    if not view.text_per_view:
        told = told[:, : text.shape[1]]
    told = told.repeat_interleave(f, 0)
    said, _ = view.attn_syncam(hidden_states=x, encoder_hidden_states=told, image_rotary_emb=context.rotary)
    said = view.projector(said).reshape(samples, f, views, h * w, -1).permute(0, 2, 1, 3, 4).reshape(hidden.shape)
    return hidden + gate * said


@pytest.mark.parametrize("text_per_view", [True, False])
@pytest.mark.parametrize("camera", ["extrinsics", "plucker"])
def test_the_view_module_is_the_published_arrangement(rotary: bool, text_per_view: bool, camera) -> None:
    base = make_base(rotary)
    model = SynCamModel(base, ViewConfig(camera=camera, text_per_view=text_per_view))
    awaken(model)
    view = model._blocks[0].view.double()
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    views, grid, cells = 3, (2, 3, 4), 12
    cameras = normal(2, views, 2, 12) if camera == "extrinsics" else normal(2, views, 2, cells, 6)
    positions = view_rotary(base, views, *grid[1:])
    assert (positions is not None) == rotary
    context = ViewContext(views, grid, cameras, positions)
    inputs = (normal(2 * views, 2 * cells, 32), normal(2 * views, 5, 32), normal(2 * views, 8))
    ours, plain = view(*inputs, context), published(view, *inputs, context)
    # Rotary positions are applied in float32 by both, in another order of the axes.
    tolerance = 1e-5 if rotary else 1e-10
    torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)
    wanted = [*inputs, cameras, *view.parameters()]
    direction = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((ours * direction).sum(), wanted), torch.autograd.grad((plain * direction).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(one, other, atol=100 * tolerance, rtol=100 * tolerance)


def view_module(rotary: bool, views: int, grid: tuple[int, int, int]) -> tuple[CogVideoXViewBlock, dict[str, Tensor], tuple]:
    base = make_base(rotary)
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    cells = grid[1] * grid[2]
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "hidden": torch.randn(views, grid[0] * cells, 32, generator=generator),
        "text": torch.randn(1, 5, 32, generator=generator).repeat(views, 1, 1),
        "temb": torch.randn(1, 8, generator=generator).repeat(views, 1),
    }
    cameras = torch.randn(1, views, grid[0], 12, generator=generator)
    return model._blocks[0].view, inputs, (cameras, view_rotary(base, views, *grid[1:]))


@torch.no_grad()
def test_frames_do_not_mix_in_view_attention_and_views_do(rotary: bool) -> None:
    views, grid = 3, (4, 2, 3)
    view, inputs, (cameras, positions) = view_module(rotary, views, grid)
    context = ViewContext(views, grid, cameras, positions)
    before = view(**inputs, context=context)
    inputs["hidden"][1, 2 * 6 : 3 * 6] += 1  # view 1, frame 2
    changed = (view(**inputs, context=context) - before).abs().unflatten(1, (4, 6)).amax(dim=(2, 3))
    assert (changed[:, [0, 1, 3]] == 0).all() and (changed[:, 2] > 0).all()
    cameras = cameras.clone()
    cameras[0, 2, 3] += 1  # the camera of view 2 at frame 3
    moved = view(**inputs, context=ViewContext(views, grid, cameras, positions)) - view(**inputs, context=context)
    moved = moved.abs().unflatten(1, (4, 6)).amax(dim=(2, 3))
    assert (moved[:, :3] == 0).all() and (moved[:, 3] > 0).all()


@torch.no_grad()
def test_exchanging_views_exchanges_outputs() -> None:
    base = make_base()
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    inputs = draw(base, 2, 4, (2, 6, 8))
    order = [0, 3, 1, 2]
    exchanged = {**inputs, "z": inputs["z"][:, order], "cameras": inputs["cameras"][:, order]}
    torch.testing.assert_close(model(**exchanged), model(**inputs)[:, order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(rotary: bool) -> None:
    base = make_base(rotary)
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    inputs = draw(base, 3, 2, (2, 6, 8))
    one = model(**{name: value[1:2] for name, value in inputs.items()})
    torch.testing.assert_close(model(**inputs)[1:2], one, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_no_gradient(rotary: bool) -> None:
    base = make_base(rotary)
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    inputs = draw(base, 1, 2, (2, 6, 8))
    found = []
    for checkpointed in (False, True):
        base.transformer.train(checkpointed)
        if checkpointed:
            base.transformer.enable_gradient_checkpointing()
        model.zero_grad()
        model(**inputs).square().mean().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.trained().items()})
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


@torch.no_grad()
def test_half_precision_weights_and_autocast() -> None:
    base = make_base()
    inputs = draw(base, 1, 2, (2, 6, 8))
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    exact = model(**inputs)
    base.transformer.to(torch.bfloat16)
    half = model(inputs["z"].bfloat16(), inputs["t"], inputs["text"].bfloat16(), inputs["cameras"])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)
    for parameter in model.trained().values():  # as mixed precision keeps them
        parameter.data = parameter.data.float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(inputs["z"].bfloat16(), inputs["t"], inputs["text"].bfloat16(), inputs["cameras"])
    torch.testing.assert_close(mixed.float(), exact, atol=0.1, rtol=0.1)


def test_the_wrapped_block_keeps_its_own_weights_untouched() -> None:
    base = make_base()
    before = deepcopy(base.transformer.state_dict())
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    model.detach()
    after = base.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
