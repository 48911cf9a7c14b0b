"""A text-to-video base that sees several views: added modules around its blocks, the base itself untouched and frozen."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext

# Each offers make_block(base, index, block, config) and view_rotary(base, views, height, width).
_FAMILIES: dict[str, str] = {"cogvideox": "pipeline.methods.syncammaster.cogvideox", "wan": "pipeline.methods.syncammaster.wan"}


class SynCamModel(nn.Module):
    """Base plus camera encoder, view attention and projector in every block. At its start it says exactly what the base says.

    Freezes the base and replaces each entry of `base.blocks()` by a block around it, until `detach`. One forward pass, then its
    backward: gradient checkpointing recomputes with the cameras of the latest forward pass. Raises ValueError for a base that
    already carries added modules.
    """

    def __init__(self, base: Base, config: ViewConfig) -> None:
        super().__init__()
        self.base = base
        self.config = config
        self.transformer = base.transformer
        self._family = import_module(_FAMILIES[base.spec.family])
        self._enabled = True
        blocks = base.blocks()
        if any(hasattr(block, "context") for block in blocks):
            raise ValueError(f"{base.spec.name} already carries added modules; call detach() on the model that put them there")
        base.freeze()
        # A tuple, so that nothing registers twice, and the blocks stay at hand when FSDP or torch.compile wraps them.
        self._blocks: tuple[Any, ...] = tuple(self._family.make_block(base, i, block, config) for i, block in enumerate(blocks))
        for i, block in enumerate(self._blocks):
            blocks[i] = block

    def forward(self, z: Tensor, t: Tensor, text: Tensor, cameras: Tensor) -> Tensor:
        """The base's prediction [B,V,C,f,h,w] for all views of B samples at once.

        z [B,V,C,f,h,w] latents; t [B] timesteps, one for all views of a sample; text [B,L,D], the same for all views; cameras
        [B,V,f,12], or [B,V,f,h*w,6] rays (h, w counted in tokens), from `cameras.camera_tensor`. Raises ValueError where they
        do not fit each other or the base.
        """
        grid = self._check(z, t, text, cameras)
        samples, views = z.shape[:2]
        context = None
        if self._enabled:
            rotary = self._family.view_rotary(self.base, views, *grid[1:]) if self.config.view_rope else None
            context = ViewContext(views, grid, cameras.to(z.device), rotary)
        self._set(context)
        said = self.base.predict(z.flatten(0, 1), t.repeat_interleave(views, 0), text.repeat_interleave(views, 0))
        if not said.requires_grad:
            self._set(None)  # nothing will be recomputed: the base used by itself is the base again
        return said.unflatten(0, (samples, views))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by the names they are saved with: "blocks.{i}.cam_encoder.weight", ..."""
        return {
            f"blocks.{i}.{name}": parameter for i, block in enumerate(self._blocks) for name, parameter in block.view.named_parameters()
        }

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the added modules are off: every view is exactly what the base says of it alone."""
        before, self._enabled = self._enabled, False
        self._set(None)
        try:
            yield
        finally:
            self._enabled = before

    def detach(self) -> None:
        """Give the base its own blocks back. The model is of no use afterwards."""
        blocks = self.base.blocks()
        for i, block in enumerate(self._blocks):
            blocks[i] = block.block

    def _set(self, context: ViewContext | None) -> None:
        for block in self._blocks:
            block.context = context

    def _check(self, z: Tensor, t: Tensor, text: Tensor, cameras: Tensor) -> tuple[int, int, int]:
        """The grid of tokens (f, h, w) of one view, where everything fits."""
        spec = self.base.spec
        if z.ndim != 6 or z.shape[2] != spec.channels:
            raise ValueError(f"latents must be [samples, views, {spec.channels}, f, h, w] for {spec.name}, got {list(z.shape)}")
        samples, views = z.shape[:2]
        cells, patch = tuple(z.shape[3:]), spec.patch
        if any(n < p or n % p for n, p in zip(cells, patch, strict=True)):
            raise ValueError(f"latents of {_by(cells)} (frames x height x width) are no whole number of {spec.name}'s {_by(patch)} patches")
        if t.shape != (samples,):
            raise ValueError(f"timesteps must be [{samples}], one a sample, got {list(t.shape)}")
        if text.ndim != 3 or text.shape[0] != samples or text.shape[2] != spec.text_dim:
            raise ValueError(f"text must be [{samples}, tokens, {spec.text_dim}] for {spec.name}, got {list(text.shape)}")
        f, h, w = (n // p for n, p in zip(cells, patch, strict=True))
        self._check_cameras(cameras, samples, views, f, h, w)
        return f, h, w

    def _check_cameras(self, cameras: Tensor, samples: int, views: int, f: int, h: int, w: int) -> None:
        rays = self.config.camera == "plucker"
        wanted = {"samples": samples, "views": views, "latent frames": f}
        wanted |= {"tokens a frame": h * w, "numbers a ray": 6} if rays else {"numbers a camera": 12}
        if tuple(cameras.shape) == tuple(wanted.values()):
            return
        if cameras.ndim == len(wanted):
            wrong = [f"{got} {name}, not {n}" for got, (name, n) in zip(cameras.shape, wanted.items(), strict=True) if got != n]
        else:
            wrong = [f"{cameras.ndim} dimensions, not {len(wanted)}"]
        raise ValueError(
            f"cameras ({self.config.camera}) do not fit the latents: {'; '.join(wrong)}. They must be "
            f"[{', '.join(map(str, wanted.values()))}] ({', '.join(wanted)}), got {list(cameras.shape)}"
        )


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
