"""Folders as `diffusers` saves its pipelines: the true classes of both families at toy sizes, random weights, texts word by word."""

import json
from pathlib import Path
from typing import Any

import torch

# Pixels of a latent cell are 8 x 8 and frames come in fours, as in the published codecs; a token is 2 x 2 cells.
_TEXT_DIM = 12
_WORDS = ["<pad>", "</s>", "<unk>", "a", "dog", "person", "walking"]


def save_small_base(family: str, folder: Path, heads: int = 2) -> Path:
    """`cogvideox` or `wan`, as wide as `heads` heads of 16 numbers."""
    torch.manual_seed(0)
    parts = _cogvideox(heads) if family == "cogvideox" else _wan(heads)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {"transformer": ["diffusers", type(parts["transformer"]).__name__]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _cogvideox(heads: int) -> dict[str, Any]:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    return {
        "transformer": CogVideoXTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=_TEXT_DIM,
            num_layers=2, sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=5,
        ),
        "vae": AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            latent_channels=4, layers_per_block=1, norm_num_groups=2, scaling_factor=0.7,
        ),
        "scheduler": CogVideoXDDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction", rescale_betas_zero_snr=True,
            snr_shift_scale=3.0, timestep_spacing="trailing", clip_sample=False,
        ),
        "text_encoder": T5EncoderModel(T5Config(vocab_size=len(_WORDS), d_model=_TEXT_DIM, d_kv=4, d_ff=8, num_layers=1, num_heads=2)),
        "tokenizer": _tokenizer(),
    }  # fmt: skip


def _wan(heads: int) -> dict[str, Any]:
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    return {
        "transformer": WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=_TEXT_DIM, freq_dim=16, ffn_dim=40,
            num_layers=2, rope_max_seq_len=64,
        ),
        "vae": AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.4],
            latents_std=[1.5, 2.0, 0.5, 0.7],
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "text_encoder": UMT5EncoderModel(UMT5Config(vocab_size=len(_WORDS), d_model=_TEXT_DIM, d_kv=4, d_ff=8, num_layers=1, num_heads=2)),
        "tokenizer": _tokenizer(),
    }  # fmt: skip


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
