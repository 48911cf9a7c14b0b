"""Pictures as files hold them, uint8 from 0 to 255, and as codecs take and give them, float from -1 to 1."""

import torch
from torch import Tensor


def from_uint8(pictures: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of any shape, uint8, to `dtype` in [-1,1]."""
    return pictures.to(dtype) / 127.5 - 1


def to_uint8(pictures: Tensor) -> Tensor:
    """Of any shape and float type to uint8: [-1,1] is rounded to 0..255, what lies outside is clamped."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
