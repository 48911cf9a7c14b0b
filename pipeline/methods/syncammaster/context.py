"""What the added modules of every block share: what they need to know of the current call, and how a layer starts as a no-op."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class ViewContext:
    """Set by `SynCamModel.forward` on every block before the transformer runs, and kept for recomputation in backward.

    views: V; the transformer's batch is B*V, sample-major (all views of sample 0 first). grid: tokens (f, h, w) of one view.
    cameras: [B,V,f,D] (extrinsics, one row per latent frame) or [B,V,f,h*w,D] (rays per token).
    rotary: (cos, sin) of the base's own rotary embedding for V*h*w tokens, the view index in the frame's place, from the
    family's `view_rotary`; None without `ViewConfig.view_rope` or where the base has no rotary positions.
    """

    views: int
    grid: tuple[int, int, int]
    cameras: Tensor
    rotary: tuple[Tensor, Tensor] | None = None


def zero_linear(inputs: int, outputs: int, like: Tensor) -> nn.Linear:
    """A layer that starts at zero, where and in the precision of `like`."""
    layer = nn.Linear(inputs, outputs, device=like.device, dtype=like.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
