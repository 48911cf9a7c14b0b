"""What the loader hands to training: one kind of sample a batch, cameras beside the pictures, ids beside everything."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bases.pictures import from_uint8

Kind = Literal["multiview_video", "multiview_images", "singleview_video"]
KINDS: tuple[Kind, ...] = ("multiview_video", "multiview_images", "singleview_video")


@dataclass
class Batch:
    """B samples of one kind at one step, this rank's share of the step.

    slots: the samples' places in the global batch (0..batch-1): noise is drawn per slot, so it does not depend on ranks.
    video: [B,V,3,F,H,W] uint8 RGB, None where latents were read. latents: [B,V,C,f,h,w] float32, None where frames were.
    c2w [B,V,F,4,4] float64 camera-to-world and K [B,V,F,3,3] float64 in pixels of the H x W picture, None for samples without
    cameras (single-view video). metric [B]: translations are metres. text: [B,L,D] where embeddings were read.
    skipped: "sample id: why" of samples that could not be read and were replaced by the next in order.
    """

    step: int
    kind: Kind
    slots: list[int]
    sample_ids: list[str]
    view_ids: list[list[str]]
    captions: list[str]
    metric: list[bool]
    c2w: NDArray[np.float64] | None
    K: NDArray[np.float64] | None
    size: tuple[int, int]  # (H, W) of the picture, also where latents were read
    video: Tensor | None = None
    latents: Tensor | None = None
    text: Tensor | None = None
    skipped: list[str] = field(default_factory=list)

    def pictures(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """[B,V,3,F,H,W] in [-1,1]. Raises ValueError where latents were read instead."""
        if self.video is None:
            raise ValueError("this batch holds latents, not frames")
        return from_uint8(self.video.to(device), dtype)
