"""SynCamMaster as the training loop sees it: options, inputs of a step, weights, validation videos."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.bases.registry import codec_of
from pipeline.loader.batch import Batch
from pipeline.methods.conditions import Texts, clean_latents
from pipeline.methods.syncammaster import weights
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.config import ObjectiveConfig, ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.objective import ViewObjective, draw_inputs
from pipeline.training.method import TrainingMethod
from pipeline.training.randomness import Streams

# Of the bases: the longest clip that their published weights were trained on; tiny is ours.
_FRAMES = {"cogvideox-2b": 49, "cogvideox-5b": 49, "wan2.1-1.3b": 81, "wan2.1-14b": 81, "tiny": 3}
_VALIDATION_STEPS = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("syncammaster")
    view, objective = ViewConfig(), ObjectiveConfig()
    group.add_argument(
        "--camera",
        choices=("extrinsics", "plucker"),
        default=view.camera,
        help="12 numbers of [R|t], or rays (default: extrinsics)",
    )
    group.add_argument(
        "--translation",
        choices=("two_metres", "metres", "normalised"),
        default=view.translation,
        help="the unit of t: 2 m (the releases), metres, or the scene's extent (default: two_metres)",
    )
    group.add_argument(
        "--text-per-view", action="store_true", help="repeat the text once per view in view attention, as the CogVideoX release does"
    )
    group.add_argument("--no-view-rope", action="store_true", help="no rotary positions in view attention")
    group.add_argument(
        "--text-dropout",
        metavar="SHARE",
        type=float,
        default=objective.text_dropout,
        help="samples trained on the empty text (default: 0.1; the paper names none)",
    )
    group.add_argument(
        "--novel-view",
        metavar="SHARE",
        type=float,
        default=objective.novel_view,
        help="multi-view video samples whose view 0 is the clean input video; 0.9 trains the paper's novel-view mode (default: 0)",
    )
    group.add_argument("--loss-on-input", action="store_true", help="count the loss of a view 0 that was replaced")


def defaults(base: str) -> dict[str, Any]:
    """Settings of the loader that fit a base; a folder has Wan's unless it says otherwise on the command line."""
    if codec_of(base) == "tiny":
        return {"frames": _FRAMES["tiny"], "size": (64, 64), "precision": "no"}
    return {"frames": _FRAMES.get(base, 81), "size": (384, 672)}


def build(base: Base, options: argparse.Namespace) -> "SynCamTraining":
    """Raises ValueError for options out of range."""
    view = ViewConfig(options.camera, options.translation, options.text_per_view, not options.no_view_rope)
    for name in ("text_dropout", "novel_view"):
        share = getattr(options, name)
        if not 0 <= share <= 1:
            raise ValueError(f"--{name.replace('_', '-')} {share:g}: a share lies from 0 to 1")
    objective = ObjectiveConfig(options.text_dropout, options.novel_view, options.loss_on_input)
    recorded = {"size": list(options.size), "frames": options.frames, "views": options.views, "frame_stride": options.frame_stride}
    encoded = options.data if options.payload == "latents" else None
    return SynCamTraining(base, options.base, view, objective, recorded, Texts(base, encoded))


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
                views_uint8 = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
                (folder / f"{sample}-{kind}.mp4").write_bytes(mp4(grid(views_uint8), 15))
        if not novel:
            return {}
        pair = ((pictures[:, 1:].transpose(2, 3) + 1) / 2 for pictures in (made, truth))
        return {"novel_view_psnr": float(psnr(*pair).mean())}
