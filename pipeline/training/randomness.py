"""Random streams keyed by what they are for: (seed, step, slot, purpose). Nothing depends on ranks, workers or history."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Streams:
    """The random values of one micro-batch: every slot has streams of its own."""

    def __init__(self, seed: int, step: int, slots: Sequence[int]) -> None:
        self.seed, self.step, self.slots = seed, step, list(slots)

    def generator(self, purpose: str, slot: int) -> torch.Generator:
        """A CPU generator that depends on (seed, step, slot, purpose) alone."""
        key = hashlib.sha256(f"{self.seed}/{self.step}/{slot}/{purpose}".encode()).digest()
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return generator

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """[slots, *shape] float32 standard normal values on the CPU."""
        return torch.stack([torch.randn(tuple(shape), generator=self.generator(purpose, slot)) for slot in self.slots])

    def uniform(self, purpose: str) -> Tensor:
        """[slots] float32 in [0, 1)."""
        return torch.stack([torch.rand((), generator=self.generator(purpose, slot)) for slot in self.slots])
