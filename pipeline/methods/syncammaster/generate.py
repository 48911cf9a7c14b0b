"""From noise to the videos of all views: guidance, and the input video of the novel-view mode.

Classifier-free: v = v(0) + g [v(T) - v(0)]. With an input video V (SynCamMaster paper, eq. 7; 1.8 and 7.5 are its scales):

    v = v(0,0) + s_V [v(V,0) - v(0,0)] + s_T [v(V,T) - v(V,0)]

Both are weighted sums of two or three branches, which go through the model as one batch. V enters as training lets it in: the
latent of view 0 is that of the video, clean, at every step. What v(0,.) sees as view 0 is not published; ours: the video's
latent with view 0's noise (the same throughout) at the current timestep, which is what the steps of training without
replacement saw. Nothing of view 0 is generated then, and the result holds the input video itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.bases.base import Base

# z [B,V,C,f,h,w], t [B], text [B,L,D], cameras [B,V,f,...] to the prediction, shaped like z. A SynCamModel is one.
Predictor = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Branch:
    """One pass of the model: its weight in the guided prediction, and whether it is told the text and shown the video."""

    weight: float
    text: bool
    video: bool


def generate(
    model: Predictor,
    base: Base,
    *,
    texts: Sequence[str],
    cameras: Tensor,
    frames: int,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    video: Tensor | None = None,
    video_guidance: float = 1.8,
    text_guidance: float = 7.5,
    negative: str = "",
    dynamic: bool = False,
    batched: bool = True,
    on_step: Callable[[int], object] | None = None,
) -> Tensor:
    """[B,V,3,F,H,W] float32 in [-1,1] on the CPU.

    texts [B]; cameras [B,V,f,...] as `camera_tensor` makes them; size (H, W). seeds [B]: the noise of a sample is drawn on the
    CPU from its own seed, view by view from one generator, so neither the batch nor the device changes it.
    video [B,3,F,H,W] in [-1,1]: the input video, view 0; then `video_guidance` and `text_guidance` hold instead of `guidance`.
    negative: the text of the unconditional branches. dynamic: let `guidance` vary as the CogVideoX release does. batched:
    the branches of a step at once; False needs less memory, and gives the same up to rounding. on_step: called after each step
    with its number. Raises ValueError for arguments that do not fit each other or the base.
    """
    shape = _latent_shape(base, texts, cameras, frames, size, seeds, video)
    with torch.no_grad():
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(base.device)
        with _own_precision(base):
            first = None if video is None else base.encode(video.to(base.device, torch.float32)).float().unsqueeze(1)
            told, untold = base.embed(list(texts)), base.embed([negative]).expand(len(texts), -1, -1)
        cameras = cameras.to(base.device, base.dtype)
        sampler = base.schedule.sampler(steps)
        z = noise if first is None else noise[:, 1:]
        for i, t in enumerate(sampler.timesteps):
            if first is None:
                scale = dynamic_guidance(guidance, float(t), steps) if dynamic else guidance
                branches = classifier_free(scale)
            else:
                branches = dual(video_guidance, text_guidance)
            now = t.to(base.device).expand(len(texts))
            inputs = [_shown(branch, z, first, noise, now, base) for branch in branches]
            spoken = [told if branch.text else untold for branch in branches]
            said = _predict(model, base, inputs, now, spoken, cameras, batched)
            v = sum((branch.weight * each.float() for branch, each in zip(branches, said, strict=True)), torch.zeros_like(noise))
            z = sampler.step(v if first is None else v[:, 1:], i, z)
            if on_step is not None:
                on_step(i)
        with _own_precision(base):
            made = _decode(base, z)
    return made if video is None else torch.cat([video.float().cpu().unsqueeze(1), made], dim=1)


def classifier_free(scale: float) -> list[Branch]:
    """v(0) + scale [v(T) - v(0)]; branches that weigh nothing are not run."""
    return _needed([Branch(1 - scale, text=False, video=False), Branch(scale, text=True, video=False)])


def dual(video: float, text: float) -> list[Branch]:
    """v(0,0) + video [v(V,0) - v(0,0)] + text [v(V,T) - v(V,0)]."""
    return _needed(
        [Branch(1 - video, text=False, video=False), Branch(video - text, text=False, video=True), Branch(text, text=True, video=True)]
    )


def dynamic_guidance(scale: float, t: float, steps: int) -> float:
    """The CogVideoX release's scale at timestep t (0..999): 1 + scale (1 - cos(pi ((N - t) / N)^5)) / 2, N the number of steps.

    As there and in `diffusers`, t is the timestep and not the number of the step, so it swings rather than rises.
    """
    return 1 + scale * (1 - math.cos(math.pi * ((steps - t) / steps) ** 5.0)) / 2


def _needed(branches: list[Branch]) -> list[Branch]:
    return [branch for branch in branches if branch.weight != 0]


def _shown(branch: Branch, z: Tensor, first: Tensor | None, noise: Tensor, t: Tensor, base: Base) -> Tensor:
    """All views [B,V,C,f,h,w] as the branch sees them: view 0 is generated too, or the video clean, or the video in noise."""
    if first is None:
        return z
    view = first if branch.video else base.schedule.noised(first, noise[:, :1], t)
    return torch.cat([view, z], dim=1)


def _predict(
    model: Predictor, base: Base, inputs: list[Tensor], t: Tensor, texts: list[Tensor], cameras: Tensor, batched: bool
) -> list[Tensor]:
    """What the model says in each branch."""
    if not batched:
        return [model(z.to(base.dtype), t, text, cameras) for z, text in zip(inputs, texts, strict=True)]
    n = len(inputs)
    said = model(torch.cat(inputs).to(base.dtype), t.repeat(n), torch.cat(texts), cameras.repeat(n, *[1] * (cameras.ndim - 1)))
    return list(said.chunk(n))


def _own_precision(base: Base) -> torch.autocast:
    """Codec and text encoder compute as they were loaded, also where the transformer is under autocast."""
    return torch.autocast(base.device.type, enabled=False)


def _decode(base: Base, z: Tensor) -> Tensor:
    """View by view: the pictures are what takes the memory."""
    views = [base.decode(latent.unsqueeze(0)).float().cpu() for latent in z.flatten(0, 1)]
    return torch.cat(views).clamp(-1, 1).unflatten(0, z.shape[:2])


def _latent_shape(
    base: Base,
    texts: Sequence[str],
    cameras: Tensor,
    frames: int,
    size: tuple[int, int],
    seeds: Sequence[int],
    video: Tensor | None,
) -> tuple[int, ...]:
    """(V,C,f,h,w) of one sample, where everything fits. Raises ValueError."""
    samples, views, latent_frames = cameras.shape[:3]
    if not (len(texts) == len(seeds) == samples):
        raise ValueError(f"{len(texts)} texts, {len(seeds)} seeds and cameras of {samples} samples; there must be as many of each")
    spec = base.spec
    shape = (views, spec.channels, spec.latent_frames(frames), *spec.latent_size(*size))
    if latent_frames != shape[2]:
        raise ValueError(f"cameras of {latent_frames} latent frames; {frames} frames are {shape[2]} for {spec.name}")
    if video is not None and views < 2:
        raise ValueError("with an input video, which is view 0, there must be at least one more view to generate")
    if video is not None and tuple(video.shape) != (samples, 3, frames, *size):
        raise ValueError(f"the input video must be {[samples, 3, frames, *size]} (samples, colours, frames, H, W), got {list(video.shape)}")
    return shape
