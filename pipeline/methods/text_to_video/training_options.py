"""Train the tiny base itself on single views, so that the other methods have something frozen to build on."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bases.base import Base
    from pipeline.methods.text_to_video.training import TextToVideo


def add_options(parser: argparse.ArgumentParser) -> None:
    """None: batch, frames and mix say it all. Every view of a sample counts as a clip of its own."""


def defaults(base: str) -> dict[str, Any]:
    return {"frames": 3, "size": (64, 64), "curriculum": [], "precision": "no"}


def build(base: "Base", options: argparse.Namespace) -> "TextToVideo":
    """Raises ValueError for another base than tiny."""
    from pipeline.bases.tiny import TinyBase
    from pipeline.methods.conditions import Texts
    from pipeline.methods.text_to_video.training import TextToVideo

    if not isinstance(base, TinyBase):
        raise ValueError(f"text_to_video trains the tiny base, got {base.spec.name!r}; published bases are used as they come")
    return TextToVideo(base, Texts(base, options.data if options.payload == "latents" else None))
