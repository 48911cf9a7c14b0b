"""Wan2.1 text-to-video (1.3B, 14B) through `diffusers`: WanTransformer3DModel, AutoencoderKLWan, UMT5."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base, BaseSpec
from pipeline.bases.flow import FlowSchedule
from pipeline.bases.hub import configuration, fetched, named_failure, random_model

# transformer/config.json of the published models; everything else is WanTransformer3DModel's default.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "wan2.1-1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096, "freq_dim": 256},
    "wan2.1-14b": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "text_dim": 4096, "freq_dim": 256},
}
_TEXT_TOKENS = 512
_SPATIAL, _TEMPORAL = 8, 4


class WanBase(Base):
    """`vae`, `text_encoder` and `tokenizer` may be None: latents and embeddings then come from elsewhere."""

    def __init__(self, name: str, transformer: nn.Module, vae: Any = None, text_encoder: Any = None, tokenizer: Any = None) -> None:
        self.transformer = transformer
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.schedule = FlowSchedule(shift=5.0, bell=True)
        config: Any = transformer.config
        self.spec = BaseSpec(
            name=name,
            family="wan",
            spatial=vae.config.scale_factor_spatial if vae else _SPATIAL,
            temporal=vae.config.scale_factor_temporal if vae else _TEMPORAL,
            channels=config.in_channels,
            patch=tuple(config.patch_size),
            dim=config.num_attention_heads * config.attention_head_dim,
            text_tokens=_TEXT_TOKENS,
            text_dim=config.text_dim,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the bulk of the transformer: `diffusers` keeps norms, modulations and the time embedding in float32."""
        weight = self.transformer.get_parameter("patch_embedding.weight")
        return weight.dtype

    def blocks(self) -> nn.ModuleList:
        blocks = self.transformer.blocks
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def predict(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        said: Tensor = self.transformer(
            hidden_states=z.to(self.dtype), timestep=t, encoder_hidden_states=text.to(self.dtype), return_dict=False
        )[0]
        return said.to(z.dtype)

    def encode(self, video: Tensor) -> Tensor:
        vae = self._loaded(self.vae, "codec")
        self.spec.latent_frames(video.shape[2])
        self.spec.latent_size(*video.shape[3:])
        mean, std = self._moments()
        with torch.no_grad():
            latents: Tensor = vae.encode(video.to(vae.device, vae.dtype), return_dict=False)[0].mode()
        return (latents - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._loaded(self.vae, "codec")
        mean, std = self._moments()
        with torch.no_grad():
            video: Tensor = vae.decode(latents.to(vae.device, vae.dtype) * std + mean, return_dict=False)[0]
        return video.clamp(-1, 1)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """[N,512,D] of UMT5, zeros after the text's own tokens, as in `diffusers`' WanPipeline (whose prompt cleaning repairs
        broken Unicode only where the package ftfy is installed)."""
        encoder = self._loaded(self.text_encoder, "text encoder")
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        tokens = self.tokenizer(
            [prompt_clean(text) for text in texts],
            padding="max_length",
            max_length=_TEXT_TOKENS,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask.to(encoder.device)
        with torch.no_grad():
            states: Tensor = encoder(tokens.input_ids.to(encoder.device), mask).last_hidden_state
        return states.masked_fill(~mask.bool().unsqueeze(2), 0).to(self.device, self.dtype)

    def modules(self) -> dict[str, nn.Module]:
        parts = {"transformer": self.transformer, "codec": self.vae, "text_encoder": self.text_encoder}
        return {name: module for name, module in parts.items() if module is not None}

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the codec's latents, each [1,C,1,1,1]."""
        config = self.vae.config
        mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return mean.to(self.vae.device, self.vae.dtype), std.to(self.vae.device, self.vae.dtype)

    def _loaded(self, part: Any, what: str) -> Any:
        if part is None:
            raise RuntimeError(
                f"{self.spec.name} was loaded without its {what}: load trained weights with codec=True, or read latents and text "
                "embeddings that pipeline.encode_latents wrote"
            )
        return part


def load(name: str, source: str, *, dtype: torch.dtype, device: torch.device, codec: bool, seed: int | None) -> WanBase:
    """From a folder in `diffusers`' layout, or a hub repository. The codec stays in float32, as Wan's own code has it.

    With a seed, random weights: of the folder's configurations, or of the named architecture, which then has no text encoder
    (there is no tokenizer without its files). Raises BaseError.
    """
    if seed is not None:
        return _random(name, Path(source), dtype, device, codec, seed)
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    folder = fetched(name, source, ("transformer", "vae", "text_encoder", "tokenizer") if codec else ("transformer",))
    with named_failure(name, folder):
        transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=dtype).to(device)
        if not codec:
            return WanBase(name, transformer)
        from transformers import AutoTokenizer, UMT5EncoderModel

        vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
        vae.enable_slicing()  # one clip at a time: exact, and memory does not grow with the views
        text_encoder: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype)
        return WanBase(name, transformer, vae, text_encoder.to(device), AutoTokenizer.from_pretrained(folder / "tokenizer"))


def _random(name: str, folder: Path, dtype: torch.dtype, device: torch.device, codec: bool, seed: int) -> WanBase:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    named = name in ARCHITECTURES
    config = ARCHITECTURES[name] if named else configuration(folder / "transformer")
    transformer = random_model(WanTransformer3DModel, config, dtype, device, seed)
    if not codec:
        return WanBase(name, transformer)
    # The published codec is the class's default.
    vae: Any = random_model(AutoencoderKLWan, {} if named else configuration(folder / "vae"), torch.float32, device, seed)
    vae.enable_slicing()
    if named:
        return WanBase(name, transformer, vae)
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    with named_failure(name, folder):
        shape = UMT5Config.from_pretrained(folder / "text_encoder")
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = random_model(UMT5EncoderModel, {"config": shape}, dtype, device, seed)
    return WanBase(name, transformer, vae, text_encoder, tokenizer)
