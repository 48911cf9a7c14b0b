"""A base that two CPU cores can train: Wan's transformer made small, over pixels, at 64 x 64.

The latent codec is pixel-unshuffle: a latent cell holds the 8 x 8 pixels under it, so decoding is exact and a PSNR in latents is
a PSNR in pixels. A token of 2 x 2 cells then has 768 numbers of which noise fills all and pictures few, so the transformer says the clean
picture and `predict` turns it into the flow: a narrow model cannot pass 768 numbers of noise through ("Back to Basics: Let
Denoising Generative Models Denoise", arXiv 2511.13720). Texts are bytes through a fixed table. All of this is ours.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.bases.base import Base, BaseSpec
from pipeline.bases.flow import FlowSchedule
from pipeline.bases.registry import BaseError

CELL = 8  # pixels of a latent cell, each way
TEXT_TOKENS, TEXT_DIM = 32, 32
ARCHITECTURE: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "in_channels": 3 * CELL * CELL,
    "out_channels": 3 * CELL * CELL,
    "text_dim": TEXT_DIM,
    "freq_dim": 64,
    "ffn_dim": 512,
    "num_layers": 4,
    "cross_attn_norm": True,
    "rope_max_seq_len": 128,
}
_LEAST_SIGMA = 0.05  # the flow is the picture's error over sigma: bounded where the noise is gone
_WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


class TinySchedule(FlowSchedule):
    """Flow whose loss is that of the picture: the flow's error is the picture's error over sigma, so weigh by sigma squared."""

    def __init__(self) -> None:
        super().__init__(shift=5.0, bell=False)

    def weight(self, t: Tensor) -> Tensor:
        return (t / 1000).clamp(min=_LEAST_SIGMA) ** 2


class TinyBase(Base):
    """`transformer` is diffusers' WanTransformer3DModel; see the module's docstring."""

    def __init__(self, transformer: nn.Module, name: str = "tiny") -> None:
        self.transformer = transformer
        self.schedule = TinySchedule()
        config: Any = transformer.config
        self.spec = BaseSpec(
            name=name,
            family="wan",
            spatial=CELL,
            temporal=1,
            channels=config.in_channels,
            patch=tuple(config.patch_size),
            dim=config.num_attention_heads * config.attention_head_dim,
            text_tokens=TEXT_TOKENS,
            text_dim=TEXT_DIM,
        )

    def blocks(self) -> nn.ModuleList:
        blocks = self.transformer.blocks
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def predict(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        picture = self.transformer(z, t, text, return_dict=False)[0]
        sigma = (t / 1000).clamp(min=_LEAST_SIGMA).to(z.dtype)
        return (z - picture) / sigma.reshape(-1, 1, 1, 1, 1)

    def encode(self, video: Tensor) -> Tensor:
        return functional.pixel_unshuffle(video.transpose(1, 2), CELL).transpose(1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        return functional.pixel_shuffle(latents.transpose(1, 2), CELL).transpose(1, 2).contiguous()

    def embed(self, texts: Sequence[str]) -> Tensor:
        """UTF-8 bytes, the first 32 x 4 of them, four to a token, through a fixed random table; zeros after the end."""
        table = torch.randn(256, TEXT_DIM, generator=torch.Generator().manual_seed(0))
        made = torch.zeros(len(texts), TEXT_TOKENS, TEXT_DIM)
        for row, text in enumerate(texts):
            data = torch.tensor(list(text.encode()[: 4 * TEXT_TOKENS]), dtype=torch.long)
            for place in range(4):
                part = table[data[place::4]].roll(place, dims=-1)
                made[row, : len(part)] += part / 2
        return made.to(self.device, self.dtype)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.transformer}

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Write `tensors` (of `transformer`, by name) as a folder that `load_base` takes: model_index.json and transformer/."""
        from safetensors.torch import save_file

        (folder / "transformer").mkdir(parents=True, exist_ok=True)
        (folder / "transformer" / "config.json").write_text(json.dumps(ARCHITECTURE, indent=1, sort_keys=True) + "\n")
        save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, folder / _WEIGHTS)
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "TinyBase", "transformer": "TinyBase"}, sort_keys=True) + "\n")

    def load_weights(self, folder: Path) -> None:
        """Take up what `save` wrote. Raises BaseError where the file is missing, damaged or of another architecture."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            self.transformer.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise BaseError(f"{folder / _WEIGHTS} is no weights of the tiny base: {str(error).splitlines()[0]}") from None


def load(name: str, source: str, *, dtype: torch.dtype, device: torch.device, codec: bool, seed: int | None) -> TinyBase:
    """`tiny`: random weights (seed 0 where none is given). A folder: the weights that `TinyBase.save` wrote."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        transformer = WanTransformer3DModel(**{**ARCHITECTURE, "patch_size": tuple(ARCHITECTURE["patch_size"])})
    base = TinyBase(transformer, name)
    if source and seed is None:
        base.load_weights(Path(source))
    nn.Module.to(
        transformer, device, dtype
    )  # ModelMixin.to warns of layers that Wan keeps in float32; small as it is, tiny runs in float32
    return base
