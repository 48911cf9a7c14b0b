"""What encoded shards depend on. All of it goes into run.json, and its hash into every shard's name."""

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from pipeline.store import stable_hash
from schemas.typed import to_plain

if TYPE_CHECKING:
    from pipeline.bases.base import Base

ENCODING_VERSION = 1
NULL_TEXT = "null_text.npz"  # beside the shards: `text` [L,D] of the empty text, which text dropout and guidance need


@dataclass(frozen=True)
class Encoding:
    """base: as given to load_base. weights: hex sha256 of its codec and text encoder. size: (H, W) in pixels. frames: of every
    video, from its first on, every frame_stride-th; view groups have one. precision: what the base computed in; latents are
    float16. The rest is the base's spec: what reads these shards must fit it.
    """

    base: str
    weights: str
    size: tuple[int, int]
    frames: int
    frame_stride: int
    precision: str
    spatial: int
    temporal: int
    channels: int
    text_tokens: int
    text_dim: int
    dtype: str = "float16"

    @property
    def key(self) -> str:
        """Hex sha256 of all of it."""
        return stable_hash([ENCODING_VERSION, to_plain(self)])

    @property
    def span(self) -> int:
        """Frames of the media that a clip reaches over."""
        return (self.frames - 1) * self.frame_stride + 1

    def positions(self, frames: int) -> list[int]:
        """Which of the media's frames are encoded: all that a clip takes, or the one that there is."""
        return [0] if frames == 1 else list(range(0, self.span, self.frame_stride))


def weights_digest(base: "Base") -> str:
    """Hex sha256 over names and values of everything but the transformer: latents of two codecs never mix unseen."""
    import torch

    digest = sha256()
    for name, module in sorted(base.modules().items()):
        if module is base.transformer:
            continue
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
