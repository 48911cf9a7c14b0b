"""CogVideoX: the base through our interface against diffusers, and the added modules against a plain reference of the release."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from torch import Tensor, nn

from pipeline.bases.cogvideox import _NOISE, CogVideoX, DiffusionSchedule
from pipeline.bases.registry import BaseError, load_base
from pipeline.methods.syncammaster.cogvideox import CogVideoXViewBlock, view_rotary
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext
from pipeline.methods.syncammaster.model import SynCamModel

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 12,
    "num_layers": 2,
    "sample_width": 8,
    "sample_height": 6,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}
CODEC = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.7,
}
NOISE = {**_NOISE, "snr_shift_scale": 3.0}


@pytest.fixture(params=["sincos", "rotary"])
def rotary(request) -> bool:
    return request.param == "rotary"


def make_base(rotary: bool = False, codec: bool = False) -> CogVideoX:
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**TRANSFORMER, use_rotary_positional_embeddings=rotary)
    for name, parameter in transformer.named_parameters():  # norms start at 1 and 0: make every one of them count
        if "norm" in name and parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    vae = AutoencoderKLCogVideoX(**CODEC).eval() if codec else None
    return CogVideoX("small", transformer.eval(), DiffusionSchedule(NOISE, "dpm" if rotary else "ddim"), vae=vae)


def draw(base: CogVideoX, samples: int, views: int, size: tuple[int, int, int], seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    f, h, w = size
    return {
        "z": torch.randn(samples, views, 4, f, h, w, generator=generator),
        "t": torch.randint(1000, (samples,), generator=generator).float(),
        "text": torch.randn(samples, 5, 12, generator=generator),
        "cameras": torch.randn(samples, views, f, 12, generator=generator),
    }


def awaken(model: SynCamModel, seed: int = 2) -> None:
    """Weights as if trained, so that the added modules say something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trained().values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


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


def test_the_base_through_our_interface_is_the_pipeline_of_diffusers(rotary: bool) -> None:
    """Both run two steps of diffusers' own sampler, from the same noise, without guidance."""
    from diffusers import CogVideoXPipeline

    base = make_base(rotary, codec=True)
    scheduler = CogVideoXDDIMScheduler(**NOISE, timestep_spacing="trailing")
    pipeline = CogVideoXPipeline(None, None, base.modules()["codec"], base.transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    z, text = torch.randn(1, 4, 3, 6, 12), torch.randn(1, 5, 12)
    keywords = {"height": 48, "width": 96, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 1, "output_type": "pt"}
    theirs = pipeline(prompt_embeds=text, latents=z.transpose(1, 2), **keywords).frames

    sampler = DiffusionSchedule(NOISE, "ddim").sampler(2)
    with torch.no_grad():
        for i, t in enumerate(sampler.timesteps):
            z = sampler.step(base.predict(z, t[None], text), i, z)
    torch.testing.assert_close(base.decode(z).transpose(1, 2) / 2 + 0.5, theirs, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_codec(frames: int) -> None:
    base = make_base(codec=True)
    video = torch.rand(2, 3, frames, 32, 48) * 2 - 1
    latents = base.encode(video)
    assert latents.shape == (2, 4, (frames - 1) // 4 + 1, 4, 6) == (2, 4, base.spec.latent_frames(frames), *base.spec.latent_size(32, 48))
    assert torch.equal(latents, base.encode(video))
    vae = base.modules()["codec"]
    torch.testing.assert_close(latents, vae.encode(video).latent_dist.mean * 0.7)
    decoded = base.decode(latents)
    assert decoded.shape == video.shape and decoded.abs().max() <= 1


def test_schedule_is_that_of_diffusers() -> None:
    schedule = DiffusionSchedule(NOISE)
    reference = CogVideoXDDIMScheduler(**NOISE)
    t = schedule.draw(5, torch.Generator().manual_seed(0))
    assert torch.equal(t, schedule.draw(5, torch.Generator().manual_seed(0))) and t.dtype == torch.float32
    assert (t == t.round()).all() and t.min() >= 0 and t.max() <= 999
    x0, noise = torch.randn(5, 4, 2, 3, 3), torch.randn(5, 4, 2, 3, 3)
    a = reference.alphas_cumprod[t.long()].float().reshape(5, 1, 1, 1, 1)
    torch.testing.assert_close(schedule.noised(x0, noise, t), a.sqrt() * x0 + (1 - a).sqrt() * noise)
    torch.testing.assert_close(schedule.target(x0, noise, t), a.sqrt() * noise - (1 - a).sqrt() * x0)
    # At the last timestep nothing of the picture is left, and v is the picture itself.
    last = torch.full((5,), 999.0)
    torch.testing.assert_close(schedule.noised(x0, noise, last), noise)
    torch.testing.assert_close(schedule.target(x0, noise, last), -x0)


def test_the_unweighted_error_of_v_is_the_weighted_error_of_the_picture() -> None:
    """CogVideoX's own loss: the picture's squared error over 1 - a."""
    schedule = DiffusionSchedule(NOISE)
    x0, noise, said = torch.randn(3, 4, 16).unbind()
    t = torch.tensor([10.0, 300.0, 900.0, 999.0])
    a = CogVideoXDDIMScheduler(**NOISE).alphas_cumprod[t.long()].float()[:, None]
    picture = a.sqrt() * schedule.noised(x0, noise, t) - (1 - a).sqrt() * said
    theirs = ((picture - x0) ** 2 / (1 - a)).mean(1)
    ours = schedule.weight(t) * ((said - schedule.target(x0, noise, t)) ** 2).mean(1)
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_perfect_predictor_leads_to_the_picture(solver: str, steps: int) -> None:
    schedule = DiffusionSchedule(NOISE, solver)
    alphas = CogVideoXDDIMScheduler(**NOISE).alphas_cumprod
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 2, 4, 2, 4, 6, generator=generator).unbind()
    sampler = schedule.sampler(steps)
    assert sampler.timesteps[0] == 999 and (sampler.timesteps.diff() < 0).all() and len(sampler.timesteps) == steps
    for i, t in enumerate(sampler.timesteps):
        a = alphas[int(t)].float()
        noise = (z - a.sqrt() * x0) / (1 - a).sqrt()
        z = sampler.step(schedule.target(x0, noise, t.repeat(2)), i, z)
    torch.testing.assert_close(z, x0, atol=1e-4, rtol=1e-4)


def test_a_dpm_walk_depends_on_its_own_start_alone() -> None:
    schedule = DiffusionSchedule(NOISE, "dpm")
    z = torch.randn(3, 4, 2, 4, 6)

    def walk(z: Tensor) -> Tensor:
        sampler = schedule.sampler(5)
        for i, _ in enumerate(sampler.timesteps):
            z = sampler.step(0.3 * z, i, z)
        return z

    together = walk(z)
    assert torch.equal(walk(z), together)
    assert torch.equal(walk(z[1:2]), together[1:2])


def save_folder(folder: Path, transformer: dict | None = None) -> None:
    """A pipeline's folder with random weights, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    CogVideoXTransformer3DModel(**{**TRANSFORMER, **(transformer or {})}).save_pretrained(folder / "transformer")
    AutoencoderKLCogVideoX(**CODEC).save_pretrained(folder / "vae")
    CogVideoXDPMScheduler(**{**NOISE, "snr_shift_scale": 2.0}).save_pretrained(folder / "scheduler")
    T5EncoderModel(T5Config(vocab_size=8, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder / "tokenizer")
    index = {"_class_name": "CogVideoXPipeline", "transformer": ["diffusers", "CogVideoXTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def test_a_folder_is_loaded_as_it_says(tmp_path: Path) -> None:
    save_folder(tmp_path)
    base = load_base(str(tmp_path))
    assert (base.spec.family, base.spec.spatial, base.spec.temporal, base.spec.dim) == ("cogvideox", 8, 4, 32)
    alphas = CogVideoXDDIMScheduler(**{**NOISE, "snr_shift_scale": 2.0}).alphas_cumprod
    one = torch.ones(1, 1)
    torch.testing.assert_close(base.schedule.noised(one, 0 * one, torch.tensor([500.0])), alphas[500].sqrt().float().reshape(1, 1))
    texts = base.embed(["a cat", "", "a cat a cat a cat a cat"])
    assert texts.shape == (3, 5, 12) and not torch.equal(texts[0], texts[1])
    video = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    assert base.decode(base.encode(video)).shape == video.shape
    again = load_base(str(tmp_path), codec=False, dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and list(again.modules()) == ["transformer"]
    with pytest.raises(RuntimeError, match="without its codec"):
        again.encode(video)
    with pytest.raises(RuntimeError, match="without its text encoder"):
        again.embed(["a cat"])


def test_random_weights_are_a_function_of_the_seed(tmp_path: Path) -> None:
    save_folder(tmp_path)
    state = torch.get_rng_state()
    one, same, other = (load_base(str(tmp_path), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.transformer.proj_out.weight, same.transformer.proj_out.weight)
    assert not torch.equal(one.transformer.proj_out.weight, other.transformer.proj_out.weight)
    assert torch.equal(one.embed(["a cat"]), same.embed(["a cat"]))


def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch) -> None:
    save_folder(tmp_path / "later", {"patch_size_t": 2})
    with pytest.raises(BaseError, match=r"CogVideoX 1\.5"):
        load_base(str(tmp_path / "later"), codec=False)
    save_folder(tmp_path / "image", {"in_channels": 8})
    with pytest.raises(BaseError, match="8 channels in, 4 out: an image-to-video model"):
        load_base(str(tmp_path / "image"), codec=False)
    save_folder(tmp_path / "torn")
    weights = next((tmp_path / "torn" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseError, match=r"weights below .*torn cannot be loaded"):
        load_base(str(tmp_path / "torn"), codec=False)
    (tmp_path / "torn" / "transformer" / "config.json").unlink()
    with pytest.raises(BaseError, match=r"weights below .*torn cannot be loaded"):
        load_base(str(tmp_path / "torn"), codec=False)
    with pytest.raises(BaseError, match=r"transformer.config\.json"):
        load_base(str(tmp_path / "torn"), codec=False, seed=0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseError, match=r"THUDM/CogVideoX-2b is not in .*hf download THUDM/CogVideoX-2b .*--base DIR"):
        load_base("cogvideox-2b")


def test_embeddings_of_another_base_are_refused() -> None:
    base = make_base()
    with pytest.raises(ValueError, match="takes text of 5 x 12, got 7 x 12"):
        base.predict(torch.zeros(1, 4, 1, 6, 8), torch.zeros(1), torch.zeros(1, 7, 12))


def test_the_wrapped_block_keeps_its_own_weights_untouched() -> None:
    base = make_base()
    before = deepcopy(base.transformer.state_dict())
    model = SynCamModel(base, ViewConfig())
    awaken(model)
    model.detach()
    after = base.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
