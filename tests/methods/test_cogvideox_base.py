"""CogVideoX itself: the base through our interface, its codec, its schedule and its loading, against diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from torch import Tensor

from pipeline.bases.cogvideox import DiffusionSchedule
from pipeline.bases.registry import BaseError, load_base
from tests.methods.cogvideox_small import CODEC, NOISE, TRANSFORMER, make_base


@pytest.mark.parametrize("rotary", [False, True], ids=["sincos", "rotary"])
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
