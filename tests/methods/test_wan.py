"""Wan: the base through our interface against diffusers' own pipeline, and the added modules against a plain reference."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from pipeline.bases.registry import BaseError, load_base
from pipeline.bases.wan import WanBase
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext
from pipeline.methods.syncammaster.wan import WanViewBlock, view_rotary

MakeBase = Callable[..., WanBase]


def complex_rope(x: Tensor, positions: Tensor, theta: float = 10000.0) -> Tensor:
    """x [n,heads,D] turned by three positions [n,3] (view, row, column): complex numbers, as in Wan's own code."""
    head_dim = x.shape[-1]
    side = 2 * (head_dim // 6)
    turns = []
    for axis, dim in enumerate((head_dim - 2 * side, side, side)):
        frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        turns.append(positions[:, axis, None].double() * frequencies)
    turn = torch.polar(torch.ones(len(x), head_dim // 2, dtype=torch.float64), torch.cat(turns, 1))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2).float()


def reference_step(view: nn.Module, x: Tensor, temb: Tensor, cameras: Tensor, rope: bool) -> Tensor:
    """x [B,V,f,h,w,d], temb [B,V,6,d], cameras [B,V,f,12] or [B,V,f,h*w,6]: one frame of one sample at a time."""
    samples, views, frames, rows, columns, dim = x.shape
    attention = view.mvs_attn
    out = x.clone()
    grid = torch.cartesian_prod(torch.arange(views), torch.arange(rows), torch.arange(columns))
    for b in range(samples):
        for k in range(frames):
            told = []
            for v in range(views):
                shift, scale, _ = view.modulation_mvs[0] + temb[b, v, :3]
                flat = x[b, v, k].reshape(rows * columns, dim)
                normed = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
                told.append(normed * (1 + scale) + shift + view.cam_encoder(cameras[b, v, k]))
            tokens = torch.cat(told)

            def rms(y: Tensor, norm: nn.Module) -> Tensor:
                return y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight

            q, key = (rms(layer(tokens), norm) for layer, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k)))
            q, key, value = (y.unflatten(1, (attention.heads, -1)) for y in (q, key, attention.to_v(tokens)))
            if rope:
                q, key = complex_rope(q, grid), complex_rope(key, grid)
            weights = torch.einsum("qhd,khd->hqk", q, key).div(q.shape[-1] ** 0.5).softmax(-1)
            said = view.projector(attention.to_out[0](torch.einsum("hqk,khd->qhd", weights, value).flatten(1)))
            for v in range(views):
                gate = view.modulation_mvs[0, 2] + temb[b, v, 2]
                out[b, v, k] += said.reshape(views, rows, columns, dim)[v] * gate
    return out


@pytest.mark.parametrize(("views", "grid"), [(1, (2, 2, 3)), (2, (1, 3, 2)), (3, (2, 2, 1))])
@pytest.mark.parametrize("camera", ["extrinsics", "plucker"])
@pytest.mark.parametrize("rope", [True, False])
def test_the_view_step_is_the_releases(small_wan: MakeBase, views: int, grid: tuple[int, int, int], camera: str, rope: bool) -> None:
    base = small_wan()
    frames, rows, columns = grid
    block = WanViewBlock(base.blocks()[0], ViewConfig(camera=camera))
    for parameter in block.view.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    dim = base.spec.dim
    x, temb = torch.randn(2, views, *grid, dim), torch.randn(2, views, 6, dim)
    shape = (2, views, frames, 12) if camera == "extrinsics" else (2, views, frames, rows * columns, 6)
    cameras = torch.randn(shape)
    rotary = view_rotary(base, views, rows, columns) if rope else None
    got = block.view(x.flatten(2, 4).flatten(0, 1), temb.flatten(0, 1), ViewContext(views, grid, cameras, rotary))
    want = reference_step(block.view, x, temb, cameras, rope)
    assert (want - x).abs().max() > 0.1  # the step says something
    torch.testing.assert_close(got, want.flatten(2, 4).flatten(0, 1), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("per_token_time", [False, True])
def test_our_walk_through_the_block_is_the_blocks_own(small_wan: MakeBase, precision: str, per_token_time: bool) -> None:
    """The wrapper repeats the order of diffusers' block; should an update of diffusers change the block, this fails."""
    base = small_wan()
    if precision != "float32":
        for name, parameter in base.transformer.named_parameters():  # mixed: as from_pretrained keeps them
            if precision == "bfloat16" or not any(part in name for part in ("norm2", "scale_shift_table")):
                parameter.data = parameter.data.bfloat16()
    block = base.blocks()[1]
    wrapped = WanViewBlock(deepcopy(block), ViewConfig())
    views, grid, tokens = 2, (3, 2, 5), 30
    x, text = torch.randn(4, tokens, base.spec.dim).to(base.dtype), torch.randn(4, 7, base.spec.dim).to(base.dtype)
    temb = torch.randn(4, *([tokens] if per_token_time else []), 6, base.spec.dim).to(base.dtype)
    rotary = base.transformer.rope(torch.empty(1, 4, 3, 4, 10))
    wrapped.context = ViewContext(views, grid, torch.randn(2, views, 3, 12), view_rotary(base, views, 2, 5))
    with torch.no_grad():
        want = block(x, text, temb, rotary)
        assert torch.equal(wrapped(x, text, temb, rotary), want)
        wrapped.context = None
        assert torch.equal(wrapped(x, text, temb, rotary), want)


def test_added_modules_start_as_copies_that_share_nothing(small_wan: MakeBase) -> None:
    block = small_wan().blocks()[0]
    view = WanViewBlock(block, ViewConfig()).view
    assert all(torch.equal(view.mvs_attn.get_parameter(name), own) for name, own in block.attn1.named_parameters())
    assert torch.equal(view.modulation_mvs, block.scale_shift_table[:, :3])
    assert not {p.data_ptr() for p in view.parameters()} & {p.data_ptr() for p in block.parameters()}
    assert not any(layer.weight.any() or layer.bias.any() for layer in (view.cam_encoder, view.projector))
    assert view.norm_mvs.eps == block.norm1.eps and not list(view.norm_mvs.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pipeline folder in diffusers' layout: the true classes, made small."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "dog": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(0)
    pipeline = WanPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=8, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=2)).eval(),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.4],
            latents_std=[1.5, 2.0, 0.5, 0.7],
        ),
        scheduler=UniPCMultistepScheduler(flow_shift=5.0, prediction_type="flow_prediction", use_flow_sigmas=True),
        transformer=WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=12, freq_dim=16, ffn_dim=40, num_layers=2
        ),
    )
    where = tmp_path_factory.mktemp("wan")
    pipeline.save_pretrained(where)
    return where


def test_a_folder_is_read_as_diffusers_reads_it(folder: Path) -> None:
    base = load_base(str(folder))
    pipeline = WanPipeline.from_pretrained(folder)
    assert (base.spec.family, base.spec.channels, base.spec.dim, base.spec.patch, base.spec.text_dim) == ("wan", 4, 32, (1, 2, 2), 12)
    assert (base.spec.latent_frames(81), base.spec.latent_size(480, 832)) == (21, (60, 104))
    texts = ["a  cat &amp; a dog", "", "dog " * 600]
    with torch.no_grad():
        want = pipeline.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)[0]
        assert torch.equal(base.embed(texts), want)
        z, t = torch.randn(2, 4, 3, 4, 6), torch.tensor([3.0, 998.5])
        assert torch.equal(base.predict(z, t, want[:2]), pipeline.transformer(z, t, want[:2], return_dict=False)[0])


def test_a_whole_sampling_step_ends_where_diffusers_pipeline_ends(folder: Path) -> None:
    """From the same noise, text and codec scaling included; one step, where every grid of sigmas is 1, 0."""
    base, pipeline = load_base(str(folder)), WanPipeline.from_pretrained(folder)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    noise = torch.randn(1, 4, 2, 4, 6)
    pipeline.set_progress_bar_config(disable=True)
    want = pipeline("a cat", height=32, width=48, num_frames=5, num_inference_steps=1, guidance_scale=1.0, latents=noise, output_type="pt")
    sampler = base.schedule.sampler(1)
    with torch.no_grad():
        z = sampler.step(base.predict(noise, sampler.timesteps[:1], base.embed(["a cat"])), 0, noise)
    torch.testing.assert_close(base.decode(z).transpose(1, 2) / 2 + 0.5, want.frames, rtol=0, atol=1e-5)


def test_latents_are_normalised_and_images_are_clips_of_one_frame(folder: Path) -> None:
    base = load_base(str(folder))
    video = torch.rand(2, 3, 5, 32, 48) * 2 - 1
    latents = base.encode(video)
    raw = AutoencoderKLWan.from_pretrained(folder / "vae").encode(video[:1]).latent_dist.mean
    want = (raw[0, 1] + 0.2) / 2.0
    torch.testing.assert_close(latents[0, 1], want)
    assert latents.shape == (2, 4, 2, 4, 6) and base.decode(latents).shape == video.shape
    assert base.encode(video[:, :, :1]).shape == (2, 4, 1, 4, 6)
    with pytest.raises(ValueError, match=r"4k[+]1 frames, got 6"):
        base.encode(torch.zeros(1, 3, 6, 32, 48))


def test_half_precision_keeps_the_codec_and_the_norms_in_full(folder: Path) -> None:
    base = load_base(str(folder), dtype=torch.bfloat16)
    assert base.dtype == torch.bfloat16 and base.vae.dtype == torch.float32
    assert base.blocks()[0].scale_shift_table.dtype == torch.float32
    assert base.embed(["a"]).dtype == torch.bfloat16
    assert base.predict(torch.randn(1, 4, 1, 4, 4), torch.tensor([500.0]), torch.randn(1, 3, 12)).dtype == torch.float32
    random = load_base(str(folder), dtype=torch.bfloat16, seed=3)
    kinds = {name: parameter.dtype for name, parameter in base.transformer.named_parameters()}
    assert {name: parameter.dtype for name, parameter in random.transformer.named_parameters()} == kinds
    again = load_base(str(folder), dtype=torch.bfloat16, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(random.transformer.parameters(), again.transformer.parameters(), strict=True))
    assert random.embed(["a cat"]).shape == (1, 512, 12)


def test_without_the_codec_it_says_what_to_do(folder: Path) -> None:
    base = load_base(str(folder), codec=False)
    assert list(base.modules()) == ["transformer"]
    with pytest.raises(RuntimeError, match=r"without its codec: load trained weights with codec=True, or read latents"):
        base.encode(torch.zeros(1, 3, 1, 32, 32))
    with pytest.raises(RuntimeError, match=r"without its text encoder"):
        base.embed([""])


def test_what_cannot_be_loaded_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match=r"wan2.1-1.3b.*Wan-AI/Wan2.1-T2V-1.3B-Diffusers.*hf download.*--base DIR"):
        load_base("wan2.1-1.3b")
    broken = tmp_path / "broken"
    (broken / "transformer").mkdir(parents=True)
    (broken / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(BaseError, match=r"broken has no vae/, text_encoder/, tokenizer/"):
        load_base(str(broken))
    (broken / "transformer" / "config.json").write_text((folder / "transformer" / "config.json").read_text())
    with pytest.raises(BaseError, match=r"weights below .*broken cannot be loaded"):
        load_base(str(broken), codec=False)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes((folder / "transformer" / weights.name).read_bytes()[:1000])
    with pytest.raises(BaseError, match=r"weights below .*broken cannot be loaded"):
        load_base(str(broken), codec=False)


def test_the_14b_is_known() -> None:
    base = load_base("wan2.1-14b", device="meta", codec=False, seed=0)
    assert (base.spec.dim, len(base.blocks()), base.spec.text_dim, base.spec.text_tokens) == (5120, 40, 4096, 512)
    assert sum(p.numel() for p in base.transformer.parameters()) == 14_288_491_584
