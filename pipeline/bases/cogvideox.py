"""CogVideoX (text to video, version 1.0) through diffusers: 2b with sin-cos positions, 5b with rotary ones.

Noise is DDPM's with zero terminal signal; the transformer says v. Source of the constants: the configurations published with
THUDM/CogVideoX-2b and -5b. `--base` may also be a folder in the layout of diffusers' CogVideoXPipeline; its own configurations
then hold.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base, BaseSpec, Sampler, Schedule
from pipeline.bases.hub import configuration, fetched, named_failure, random_model
from pipeline.bases.registry import BaseError

# What differs from the defaults of diffusers' CogVideoXTransformer3DModel, which are 2b.
_TRANSFORMER: dict[str, dict[str, Any]] = {
    "cogvideox-2b": {},
    "cogvideox-5b": {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
}
_CODEC: dict[str, dict[str, Any]] = {"cogvideox-2b": {"scaling_factor": 1.15258426}, "cogvideox-5b": {"scaling_factor": 0.7}}
_SNR_SHIFT = {"cogvideox-2b": 3.0, "cogvideox-5b": 1.0}
_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 0,
}


def architecture(name: str) -> dict[str, Any]:
    """Keywords of diffusers' CogVideoXTransformer3DModel for a named base; build it under `torch.device("meta")` to count."""
    return dict(_TRANSFORMER[name])


class DiffusionSchedule(Schedule):
    """DDPM noise, v-prediction: z = sqrt(a) x0 + sqrt(1 - a) noise, the model says v = sqrt(a) noise - sqrt(1 - a) x0.

    noise: keywords of diffusers' CogVideoX schedulers. solver: "ddim" (the SynCamMaster release's choice for 2b) or "dpm"
    (its choice otherwise), with trailing spacing as there. Timesteps are whole numbers, 0..999, drawn uniformly.

    The loss weight is 1 everywhere. CogVideoX trains on the picture's error over 1 - a; that error is 1 - a times the error of
    v, so it is exactly the unweighted error of v.
    """

    def __init__(self, noise: dict[str, Any], solver: str = "ddim") -> None:
        from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

        self._noise = {**noise, "timestep_spacing": "trailing"}
        self._solver = solver
        self._train = CogVideoXDDIMScheduler(**self._noise)
        if self._train.config.prediction_type != "v_prediction":
            raise BaseError(f"the scheduler's prediction_type is {self._train.config.prediction_type!r}; CogVideoX's is 'v_prediction'")

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self._train.config.num_train_timesteps, (n,), generator=generator).float()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self._train.add_noise(x0.float(), noise.float(), t.long()).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self._train.get_velocity(x0.float(), noise.float(), t.long()).to(x0.dtype)

    def sampler(self, steps: int) -> Sampler:
        most = self._train.config.num_train_timesteps
        if not 1 <= steps <= most:
            raise ValueError(f"{steps} sampling steps; this base takes 1 to {most}")
        return DDIMSampler(self._noise, steps) if self._solver == "ddim" else DPMSampler(self._noise, steps)


class DDIMSampler(Sampler):
    """diffusers' CogVideoXDDIMScheduler, deterministic."""

    def __init__(self, noise: dict[str, Any], steps: int) -> None:
        from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

        self._scheduler = CogVideoXDDIMScheduler(**noise)
        self._scheduler.set_timesteps(steps)
        self.timesteps = self._scheduler.timesteps.float()

    def step(self, prediction: Tensor, i: int, z: Tensor) -> Tensor:
        return self._scheduler.step(prediction, self._scheduler.timesteps[i], z, return_dict=False)[0].to(z.dtype)


class DPMSampler(Sampler):
    """diffusers' CogVideoXDPMScheduler: second order, with fresh noise in every step.

    That noise is a function of the noise the walk starts from, row by row: equal starts give equal results, whatever else is
    in the batch.
    """

    def __init__(self, noise: dict[str, Any], steps: int) -> None:
        from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

        self._scheduler = CogVideoXDPMScheduler(**noise)
        self._scheduler.set_timesteps(steps)
        self.timesteps = self._scheduler.timesteps.float()
        self._previous: Tensor | None = None
        self._generators: list[torch.Generator] = []

    def step(self, prediction: Tensor, i: int, z: Tensor) -> Tensor:
        if i == 0:
            self._previous, self._generators = None, [_generator_of(row) for row in z]
        back = self._scheduler.timesteps[i - 1] if i else None
        made, self._previous = self._scheduler.step(
            prediction, self._previous, self._scheduler.timesteps[i], back, z, generator=self._generators, return_dict=False
        )
        return made.to(z.dtype)


class CogVideoX(Base):
    """See `Base`. `vae`, `text_encoder` and `tokenizer` may be None where latents and embeddings come from elsewhere."""

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        schedule: Schedule,
        *,
        spatial: int = 8,
        vae: nn.Module | None = None,
        text_encoder: nn.Module | None = None,
        tokenizer: Callable[..., Any] | None = None,
    ) -> None:
        self.transformer = transformer
        self.schedule = schedule
        self._vae, self._text_encoder, self._tokenizer = vae, text_encoder, tokenizer
        config: Any = transformer.config
        self.spec = BaseSpec(
            name=name,
            family="cogvideox",
            spatial=spatial,
            temporal=config.temporal_compression_ratio,
            channels=config.in_channels,
            patch=(1, config.patch_size, config.patch_size),
            dim=config.num_attention_heads * config.attention_head_dim,
            text_tokens=config.max_text_seq_length,
            text_dim=config.text_embed_dim,
        )

    def blocks(self) -> nn.ModuleList:
        blocks = self.transformer.transformer_blocks
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def predict(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        if text.shape[1:] != (self.spec.text_tokens, self.spec.text_dim):
            raise ValueError(
                f"{self.spec.name} takes text of {self.spec.text_tokens} x {self.spec.text_dim}, got {text.shape[1]} x {text.shape[2]}; "
                "were the embeddings made with another base?"
            )
        _, _, f, h, w = z.shape
        grid = (f, h // self.spec.patch[1], w // self.spec.patch[2])
        prediction = self.transformer(
            hidden_states=z.transpose(1, 2),
            encoder_hidden_states=text,
            timestep=t,
            image_rotary_emb=self.positions(grid, z.device),
            return_dict=False,
        )[0]
        return prediction.transpose(1, 2)

    def positions(self, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Rotary (cos, sin), each [f*h*w, head_dim] float32, of a grid of tokens (f, h, w); None for 2b, which has none."""
        config: Any = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        sample = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        return _rotary(config.attention_head_dim, sample, grid, device)

    def encode(self, video: Tensor) -> Tensor:
        vae = self._codec()
        self.spec.latent_frames(video.shape[2])
        self.spec.latent_size(*video.shape[3:])
        with torch.no_grad():
            mean = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
        return (mean * vae.config.scaling_factor).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._codec()
        frames = self.spec.temporal * (latents.shape[2] - 1) + 1
        if latents.shape[2] > 1 and latents.shape[2] % 2 == 0:
            # The decoder treats the first latent frame apart only in a chunk of odd length, and then works in pairs. It is
            # causal: a repeated last frame changes nothing that is kept.
            latents = torch.cat([latents, latents[:, :, -1:]], dim=2)
        with torch.no_grad():
            video = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        return video[:, :, :frames].clamp(-1, 1).to(self.dtype)

    def embed(self, texts: Sequence[str]) -> Tensor:
        if self._text_encoder is None or self._tokenizer is None:
            raise RuntimeError(f"{self.spec.name} was loaded without its text encoder; load it with codec=True from trained weights")
        tokens = self._tokenizer(list(texts), padding="max_length", max_length=self.spec.text_tokens, truncation=True, return_tensors="pt")
        device = next(self._text_encoder.parameters()).device
        with torch.no_grad():
            return self._text_encoder(tokens.input_ids.to(device))[0].to(self.device, self.dtype)

    def modules(self) -> dict[str, nn.Module]:
        found = {"transformer": self.transformer, "codec": self._vae, "text_encoder": self._text_encoder}
        return {name: module for name, module in found.items() if module is not None}

    def _codec(self) -> Any:
        if self._vae is None:
            raise RuntimeError(f"{self.spec.name} was loaded without its codec; load it with codec=True")
        return self._vae


def load(name: str, source: str, *, dtype: torch.dtype, device: torch.device, codec: bool, seed: int | None) -> CogVideoX:
    """From a folder in `diffusers`' layout, or a hub repository.

    With a seed, random weights: of the folder's configurations, or of the named architecture, which then has no text encoder
    (there is no tokenizer without its files). Raises BaseError for what cannot be read, and for CogVideoX variants that are no
    text-to-video models of version 1.0.
    """
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    named = name in _TRANSFORMER
    parts = ("transformer", *(() if named else ("scheduler",)), *(("vae", "text_encoder", "tokenizer") if codec else ()))
    folder = None if named and seed is not None else fetched(name, source, parts)

    def part(cls: type[Any], what: str, defaults: dict[str, dict[str, Any]]) -> Any:
        if seed is not None:
            return random_model(cls, configuration(folder / what) if folder else defaults[name], dtype, device, seed)
        assert folder is not None
        with named_failure(name, folder):
            return cls.from_pretrained(folder / what, torch_dtype=dtype).to(device).eval()

    transformer = part(CogVideoXTransformer3DModel, "transformer", _TRANSFORMER)
    _check_variant(name, transformer.config)
    vae = part(AutoencoderKLCogVideoX, "vae", _CODEC) if codec else None
    if vae is not None:
        vae.enable_slicing()  # one clip at a time: exact, and memory does not grow with the views
    text_encoder, tokenizer = _text(name, folder, dtype, device, seed) if codec and folder else (None, None)
    noise = {**_NOISE, "snr_shift_scale": _SNR_SHIFT[name]} if named or folder is None else _noise(name, folder)
    return CogVideoX(
        name,
        transformer,
        DiffusionSchedule(noise, "dpm" if transformer.config.use_rotary_positional_embeddings else "ddim"),
        spatial=_spatial(folder),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    )


def _noise(name: str, folder: Path) -> dict[str, Any]:
    """The keywords of the folder's scheduler; which of diffusers' CogVideoX schedulers it names does not matter here."""
    from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

    with named_failure(name, folder):
        config: Any = CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler").config
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _text(name: str, folder: Path, dtype: torch.dtype, device: torch.device, seed: int | None) -> tuple[nn.Module, Any]:
    """The T5 encoder and its tokenizer."""
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    with named_failure(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        if seed is None:
            encoder: Any = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype)
            return encoder.to(device).eval(), tokenizer
        shape = T5Config.from_pretrained(folder / "text_encoder")
    return random_model(T5EncoderModel, {"config": shape}, dtype, device, seed), tokenizer


def _check_variant(name: str, config: Any) -> None:
    if config.patch_size_t is not None:
        raise BaseError(f"--base {name}: this is CogVideoX 1.5 (patches over time); supported: CogVideoX-2b and -5b and their fine-tunes")
    if config.in_channels != config.out_channels:
        raise BaseError(
            f"--base {name}: {config.in_channels} channels in, {config.out_channels} out: an image-to-video model; "
            "supported: text-to-video, CogVideoX-2b and -5b and their fine-tunes"
        )


def _spatial(folder: Path | None) -> int:
    """Pixels per latent cell: from the folder's codec, where there is one; all published codecs have 8."""
    if folder is None or not (folder / "vae").is_dir():
        return 8
    return 2 ** (len(configuration(folder / "vae")["block_out_channels"]) - 1)


def _rotary(head_dim: int, sample: tuple[int, int], grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions as diffusers' CogVideoXPipeline gives them: rows and columns stretched to the size the model was trained at."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    frames, rows, columns = grid
    region = get_resize_crop_region_for_grid((rows, columns), sample[1], sample[0])
    cos, sin = get_3d_rotary_pos_embed(head_dim, region, (rows, columns), frames, device=device)
    return cos, sin


def _generator_of(row: Tensor) -> torch.Generator:
    """A CPU generator that depends on the tensor's values alone."""
    digest = hashlib.sha256(row.detach().float().cpu().contiguous().numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
