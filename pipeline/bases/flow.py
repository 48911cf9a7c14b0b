"""Rectified flow: z = (1 - s) x0 + s noise, the model says noise - x0. Wan, and our tiny base.

Source: SynCamMaster paper ("rectified flow; target velocity eps - z_0; Euler from t = 1 to 0"); the Wan release's numbers
(1000 uniform sigmas shifted by 5, a bell-shaped loss weight), spec sections 1.1 and 1.3.
"""

from functools import cached_property

import torch
from torch import Tensor

from pipeline.bases.base import Sampler, Schedule

_TRAIN_STEPS = 1000


class FlowSchedule(Schedule):
    """shift: sigma' = shift * sigma / (1 + (shift - 1) * sigma); 5 for Wan, 1 leaves sigma uniform.

    bell: weigh the loss by y(t) = exp(-2 ((t - 500) / 1000)^2) minus its minimum, scaled to a mean of 1 over the 1000 steps.
    """

    def __init__(self, shift: float = 5.0, bell: bool = True) -> None:
        self.shift = shift
        self.bell = bell

    @cached_property
    def sigmas(self) -> Tensor:
        """[1000] float64 training sigmas, descending from 1."""
        return shifted(torch.linspace(1, 0, _TRAIN_STEPS + 1, dtype=torch.float64)[:-1], self.shift)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(_TRAIN_STEPS, (n,), generator=generator)
        return (1000 * self.sigmas[index]).float()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = _like(t / 1000, x0)
        return (1 - s) * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def weight(self, t: Tensor) -> Tensor:
        if not self.bell:
            return torch.ones_like(t)
        low, scale = self._bell_scale
        return ((_bell(t.double()) - low) * scale).float()

    @cached_property
    def _bell_scale(self) -> tuple[float, float]:
        y = _bell(1000 * self.sigmas)
        low = float(y.min())
        return low, _TRAIN_STEPS / float((y - low).sum())

    def sampler(self, steps: int) -> Sampler:
        return FlowSampler(steps, self.shift)


class FlowSampler(Sampler):
    """Euler steps along the flow, through `diffusers`' FlowMatchEulerDiscreteScheduler."""

    def __init__(self, steps: int, shift: float) -> None:
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        self._scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TRAIN_STEPS, shift=1.0)
        self._scheduler.set_timesteps(sigmas=shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1], shift).tolist())
        self.timesteps = self._scheduler.timesteps.float()

    def step(self, prediction: Tensor, i: int, z: Tensor) -> Tensor:
        return self._scheduler.step(prediction, self._scheduler.timesteps[i], z, return_dict=False)[0]


def shifted(sigma: Tensor, shift: float) -> Tensor:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _bell(t: Tensor) -> Tensor:
    return torch.exp(-2 * ((t - 500) / 1000) ** 2)


def _like(value: Tensor, x: Tensor) -> Tensor:
    """[N] as [N,1,1,...] in x's device and dtype."""
    return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
