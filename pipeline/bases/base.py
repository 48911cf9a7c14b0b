"""What a method needs of a text-to-video base. Everything that differs between CogVideoX, Wan and tiny stays behind this."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Family = Literal["cogvideox", "wan"]


@dataclass(frozen=True)
class BaseSpec:
    """Sizes that data and cameras must agree with.

    spatial: pixels per latent cell, each way. temporal: frames per latent frame; a clip has temporal * k + 1 frames, and
    latent frame i is shown at frame temporal * i. patch: latent cells (t, h, w) per token. dim: width of the transformer.
    """

    name: str
    family: Family
    spatial: int
    temporal: int
    channels: int
    patch: tuple[int, int, int]
    dim: int
    text_tokens: int
    text_dim: int

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip. Raises ValueError for a number of frames that the codec cannot take."""
        if frames < 1 or (frames - 1) % self.temporal:
            near = [n for n in (frames - (frames - 1) % self.temporal, frames + self.temporal - (frames - 1) % self.temporal) if n > 0]
            raise ValueError(
                f"{self.name} takes {self.temporal}k+1 frames, got {frames}; try --frames {' or '.join(map(str, dict.fromkeys(near)))}"
            )
        return (frames - 1) // self.temporal + 1

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent (height, width) of a picture. Raises ValueError where the size is no whole number of tokens."""
        cell = (self.spatial * self.patch[1], self.spatial * self.patch[2])
        if height < 1 or width < 1 or height % cell[0] or width % cell[1]:
            raise ValueError(
                f"{self.name} takes heights that are multiples of {cell[0]} and widths of {cell[1]}, got {height}x{width}; "
                f"try {max(1, round(height / cell[0])) * cell[0]}x{max(1, round(width / cell[1])) * cell[1]} (height x width)"
            )
        return height // self.spatial, width // self.spatial


class Schedule(ABC):
    """The noise process of a base, for training and for sampling. Timesteps are what the transformer is given: [N] float."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """[n] float32 timesteps as training draws them, on the CPU; equal generators give equal values."""

    @abstractmethod
    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x0 and noise [N,...] at timesteps t [N]."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the transformer learns to say at t [N]: the flow noise - x0, or DDPM's v. Same shape as x0."""

    def weight(self, t: Tensor) -> Tensor:
        """[N] loss weights at t [N]."""
        return torch.ones_like(t)

    @abstractmethod
    def sampler(self, steps: int) -> "Sampler":
        """A new sampler of `steps` steps, at its start."""


class Sampler(ABC):
    """Walks from noise to latents. `timesteps` [steps] float32, descending; call `step` once for each, in order."""

    timesteps: Tensor

    @abstractmethod
    def step(self, prediction: Tensor, i: int, z: Tensor) -> Tensor:
        """z after step i, from the (guided) prediction at timesteps[i]; same shape as z."""


class Base(ABC):
    """A text-to-video model: `transformer` (an nn.Module of diffusers), `schedule`, codec and text encoder.

    Latents are [N,C,f,h,w] everywhere, already scaled as the transformer wants them. Codec and text encoder may be absent
    (`codec=None` at loading) where latents and embeddings come from shards; using them then raises RuntimeError that says so.
    """

    spec: BaseSpec
    transformer: nn.Module
    schedule: Schedule

    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, in the list that the transformer itself runs: replacing an entry replaces the block."""

    @abstractmethod
    def predict(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The transformer's word at z [N,C,f,h,w], t [N], text [N,L,D]: in terms of `schedule.target`. Same shape as z."""

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Pictures [N,3,F,H,W] in [-1,1] to latents [N,C,f,h,w]. Deterministic: the mean of the codec's posterior."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N,C,f,h,w] to pictures [N,3,F,H,W] in [-1,1]."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts to [N,L,D]. The empty string is the text of unconditional guidance."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Every torch module by name (transformer, codec, text encoder), for moving, freezing and counting."""

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    def freeze(self) -> None:
        for module in self.modules().values():
            module.requires_grad_(False)
            module.eval()
