"""Clean latents and text embeddings of a batch: read from the shards where they were computed before, else computed now."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.bases.base import Base
from pipeline.encoding.settings import NULL_TEXT
from pipeline.loader.batch import Batch


def clean_latents(base: Base, batch: Batch, device: torch.device) -> Tensor:
    """[B,V,C,f,h,w] float32 on the device."""
    if batch.latents is not None:
        return batch.latents.to(device).float()
    pictures = batch.pictures(device, torch.float32)  # the codec's own precision may be finer than the base's
    # View by view: codecs take more memory than anything else here.
    encoded = torch.cat([base.encode(view.unsqueeze(0)) for view in pictures.flatten(0, 1)])
    return encoded.float().unflatten(0, pictures.shape[:2])


class Texts:
    """Embeddings of captions and of the empty text."""

    def __init__(self, base: Base, encoded: str | None = None) -> None:
        """encoded: the folder (or URL) of pipeline.encode_latents that latents come from, which holds the empty text's embedding."""
        self.base = base
        self._null = None if encoded is None else torch.from_numpy(_read(encoded)).unsqueeze(0)

    def embed(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """(the samples' [B,L,D], the empty text's [1,L,D])."""
        if self._null is None:
            self._null = self.base.embed([""])
        null = self._null.to(device, self.base.dtype)
        told = self.base.embed(batch.captions) if batch.text is None else batch.text
        return told.to(device, self.base.dtype), null


def _read(location: str) -> "np.ndarray":
    import fsspec

    path = f"{location.rstrip('/')}/{NULL_TEXT}" if "://" in location else str(Path(location) / NULL_TEXT)
    try:
        with fsspec.open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays["text"], np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:  # the last for a single array
        raise ValueError(f"{path} cannot be read ({error}); latents come from a folder that pipeline.encode_latents wrote") from None
