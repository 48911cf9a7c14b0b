"""A small CogVideoX with random weights, and inputs for it."""

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import Tensor

from pipeline.bases.cogvideox import _NOISE, CogVideoX, DiffusionSchedule
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
