"""One training step as a pure function of what was drawn for it: noise in, the base's target out, the error of the views that count.

Source: SynCamMaster paper (novel-view mode, section 3.5: view 0's noisy latent replaced by the input video's) and the Wan release
(one timestep for all views of a sample; text of the sample for every view).
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.loader.batch import Batch
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.config import ObjectiveConfig, ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.training.randomness import Streams


class ViewObjective(nn.Module):
    """SynCamModel with its loss: what the training loop wraps."""

    def __init__(self, model: SynCamModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, t: Tensor, text: Tensor, cameras: Tensor, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """{"loss": mean over samples of each sample's weighted mean over its views}. target as z [B,V,C,f,h,w]; weight [B,V]."""
        said = self.model(z, t, text, cameras)
        error = (said.float() - target.float()).pow(2).mean(dim=(2, 3, 4, 5))
        counted = (weight > 0).sum(dim=1).clamp(min=1)
        return {"loss": ((error * weight).sum(dim=1) / counted).mean()}


def draw_inputs(
    base: Base,
    view: ViewConfig,
    objective: ObjectiveConfig,
    x0: Tensor,
    texts: tuple[Tensor, Tensor],
    batch: Batch,
    streams: Streams,
) -> dict[str, Any]:
    """What `ViewObjective.forward` takes, from clean latents x0 [B,V,C,f,h,w] on the training device.

    texts: the samples' embeddings [B,L,D] and the empty text's [1,L,D]. Everything random comes from `streams`, by slot.
    """
    samples, views = x0.shape[:2]
    t = torch.cat([base.schedule.draw(1, streams.generator("timestep", slot)) for slot in streams.slots]).to(x0.device)
    noise = streams.normal("noise", x0.shape[1:]).to(x0.device)
    clean = x0.float()
    each = t.repeat_interleave(views)
    flat, flat_noise = clean.flatten(0, 1), noise.flatten(0, 1)
    z = base.schedule.noised(flat, flat_noise, each).unflatten(0, (samples, views))
    target = base.schedule.target(flat, flat_noise, each).unflatten(0, (samples, views))
    weight = base.schedule.weight(t).unsqueeze(1).repeat(1, views)
    if batch.kind == "multiview_video" and views > 1:
        replaced = (streams.uniform("novel_view") < objective.novel_view).to(x0.device)
        z[:, 0] = torch.where(replaced.reshape(-1, 1, 1, 1, 1), clean[:, 0], z[:, 0])
        if not objective.loss_on_input:
            weight[:, 0] = weight[:, 0].masked_fill(replaced, 0.0)
    dropped = (streams.uniform("text_dropout") < objective.text_dropout).to(x0.device)
    text = torch.where(dropped.reshape(-1, 1, 1), texts[1].to(texts[0]), texts[0])
    frames = 1 + (x0.shape[3] - 1) * base.spec.temporal
    cameras = camera_tensor(batch.c2w, batch.K, batch.metric, base.spec, view, batch.size, shape=(views, frames))
    dtype = base.dtype
    return {
        "z": z.to(dtype),
        "t": t,
        "text": text.to(dtype),
        "cameras": cameras.to(x0.device, dtype),
        "target": target,
        "weight": weight,
    }
