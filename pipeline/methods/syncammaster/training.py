"""SynCamMaster as the training loop sees it: inputs of a step, weights, validation videos."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.bases.pictures import to_uint8
from pipeline.loader.batch import Batch
from pipeline.methods.conditions import Texts, clean_latents
from pipeline.methods.syncammaster import weights
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.config import FPS, ObjectiveConfig, ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.objective import ViewObjective, draw_inputs
from pipeline.training.method import TrainingMethod
from pipeline.training.randomness import Streams

_VALIDATION_STEPS = 20


class SynCamTraining(TrainingMethod):
    """`recorded`: what inference takes as its defaults, stored beside the weights."""

    name = "syncammaster"

    def __init__(
        self, base: Base, base_name: str, view: ViewConfig, objective: ObjectiveConfig, recorded: dict[str, Any], texts: Texts
    ) -> None:
        self.base, self.base_name = base, base_name
        self.view, self.objective = view, objective
        self.recorded = recorded
        self.syncam = SynCamModel(base, view)
        self.model: nn.Module = ViewObjective(self.syncam)
        self.texts = texts

    def inputs(self, batch: Batch, streams: Streams, device: torch.device) -> dict[str, Any]:
        with torch.no_grad():
            x0 = clean_latents(self.base, batch, device)
            return draw_inputs(self.base, self.view, self.objective, x0, self.texts.embed(batch, device), batch, streams)

    def trained(self) -> dict[str, nn.Parameter]:
        return self.syncam.trained()

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        weights.save(folder, tensors, self.view, self.base_name, {**self.recorded, "objective": asdict(self.objective)})

    def load(self, folder: Path) -> None:
        weights.load_weights(folder, self.syncam)

    def wrapped_blocks(self) -> set[type[nn.Module]]:
        return {type(block) for block in self.base.blocks()}

    def validate(self, folder: Path, batch: Batch, seed: int) -> dict[str, float]:
        """For each sample viewNN.mp4 as generated and truth.mp4; in novel-view mode view 0 is the input and the PSNR of the others
        is logged. Nothing where latents are read: there is no codec at hand."""
        if batch.video is None:
            return {}
        from pipeline.generated import grid, mp4
        from pipeline.methods.syncammaster.generate import generate
        from pipeline.metrics.image import psnr

        views, frames = batch.video.shape[1], batch.video.shape[3]
        cameras = camera_tensor(batch.c2w, batch.K, batch.metric, self.base.spec, self.view, batch.size, shape=(views, frames))
        truth = batch.pictures(torch.device("cpu"), torch.float32)
        novel = self.objective.novel_view > 0 and views > 1
        made = torch.cat(
            [
                generate(  # one sample and one branch at a time: a run whose steps fit should also fit this
                    self.syncam,
                    self.base,
                    texts=[caption],
                    cameras=cameras[i : i + 1],
                    frames=frames,
                    size=batch.size,
                    steps=_VALIDATION_STEPS,
                    guidance=5.0,
                    seeds=[seed + slot],
                    video=truth[i : i + 1, 0] if novel else None,
                    batched=False,
                )
                for i, (caption, slot) in enumerate(zip(batch.captions, batch.slots, strict=True))
            ]
        )
        for sample, generated, true in zip(batch.sample_ids, made, truth, strict=True):
            for kind, pictures in (("generated", generated), ("truth", true)):
                views_uint8 = to_uint8(pictures).permute(0, 2, 3, 4, 1).numpy()
                (folder / f"{sample}-{kind}.mp4").write_bytes(mp4(grid(views_uint8), FPS))
        if not novel:
            return {}
        pair = ((pictures[:, 1:].transpose(2, 3) + 1) / 2 for pictures in (made, truth))
        return {"novel_view_psnr": float(psnr(*pair).mean())}
