"""Training of the tiny base. Published bases come trained; continuing their training is not what this is for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.tiny import TinyBase
from pipeline.loader.batch import Batch
from pipeline.methods.conditions import Texts, clean_latents
from pipeline.training.method import TrainingMethod
from pipeline.training.randomness import Streams

_TEXT_DROPOUT = 0.1


class _Objective(nn.Module):
    def __init__(self, base: TinyBase) -> None:
        super().__init__()
        self.base = base
        self.transformer = base.transformer

    def forward(self, z: Tensor, t: Tensor, text: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = (self.base.predict(z, t, text).float() - target).pow(2).mean(dim=(1, 2, 3, 4))
        return {"loss": (error * self.base.schedule.weight(t)).mean()}


class TextToVideo(TrainingMethod):
    """All of the transformer trains; weights/ is a base folder for --base."""

    name = "text_to_video"

    def __init__(self, base: TinyBase, texts: Texts) -> None:
        self.base: TinyBase = base
        self.model: nn.Module = _Objective(base)
        self.texts = texts
        base.transformer.requires_grad_(True)

    def inputs(self, batch: Batch, streams: Streams, device: torch.device) -> dict[str, Any]:
        with torch.no_grad():
            x0 = clean_latents(self.base, batch, device)
            views = x0.shape[1]
            told, empty = self.texts.embed(batch, device)
            dropped = (streams.uniform("text_dropout") < _TEXT_DROPOUT).to(device)
            text = torch.where(dropped.reshape(-1, 1, 1), empty.to(told), told).repeat_interleave(views, 0)
            t = torch.cat([self.base.schedule.draw(views, streams.generator("timestep", slot)) for slot in streams.slots]).to(device)
            noise = streams.normal("noise", x0.shape[1:]).to(device).flatten(0, 1)
            x0 = x0.flatten(0, 1)
            z = self.base.schedule.noised(x0, noise, t)
            return {"z": z.to(self.base.dtype), "t": t, "text": text, "target": self.base.schedule.target(x0, noise, t)}

    def trained(self) -> dict[str, nn.Parameter]:
        return dict(self.base.transformer.named_parameters())

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        self.base.save(folder, tensors)

    def load(self, folder: Path) -> None:
        self.base.load_weights(folder)

    def wrapped_blocks(self) -> set[type[nn.Module]]:
        return {type(block) for block in self.base.blocks()}
