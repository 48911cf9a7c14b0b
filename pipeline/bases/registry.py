"""Bases by name, or from a folder in the layout of `diffusers`' pipelines (model_index.json, transformer/, vae/, ...)."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pipeline.bases.base import Base
from schemas.typed import from_json, nearest

# Name -> (module, Hugging Face repository, spatial/frames defaults are the module's own).
NAMED: dict[str, tuple[str, str]] = {
    "cogvideox-2b": ("pipeline.bases.cogvideox", "THUDM/CogVideoX-2b"),
    "cogvideox-5b": ("pipeline.bases.cogvideox", "THUDM/CogVideoX-5b"),
    "wan2.1-1.3b": ("pipeline.bases.wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    "wan2.1-14b": ("pipeline.bases.wan", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    "tiny": ("pipeline.bases.tiny", ""),
}
# Transformer class in model_index.json -> module.
_BY_CLASS = {
    "CogVideoXTransformer3DModel": "pipeline.bases.cogvideox",
    "WanTransformer3DModel": "pipeline.bases.wan",
    "TinyBase": "pipeline.bases.tiny",
}


class BaseError(ValueError):
    """A base that cannot be loaded. The message says what was looked for and how to get it."""


def load_base(
    name: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", codec: bool = True, seed: int | None = None
) -> Base:
    """A named base (from the hub's cache, or downloaded), or a folder.

    codec: also load the VAE and the text encoder; without them `encode`, `decode` and `embed` raise RuntimeError.
    seed: random weights of the true architecture instead of trained ones (tests, benchmarks; `tiny` without a folder always
    has random weights). Raises BaseError.
    """
    module, source = _find(name)
    load: Callable[..., Base] = import_module(module).load
    return load(name, source, dtype=dtype, device=torch.device(device), codec=codec, seed=seed)


def _find(name: str) -> tuple[str, str]:
    if name in NAMED:
        return NAMED[name]
    folder = Path(name)
    index = folder / "model_index.json"
    if not index.is_file():
        what = "the folder has no model_index.json" if folder.is_dir() else "there is no such folder"
        raise BaseError(f"--base {name!r}: not one of {', '.join(NAMED)}, and {what}{nearest(name, NAMED)}")
    key = _transformer_class(index)
    if key not in _BY_CLASS:
        raise BaseError(f"{index}: its transformer is {key!r}; supported: {', '.join(_BY_CLASS)}")
    return _BY_CLASS[key], str(folder)


def _transformer_class(index: Path) -> Any:
    """What model_index.json says of the transformer. Raises BaseError for a file that is no such index."""
    try:
        transformer = from_json(index.read_text("utf-8"))["transformer"]
        return transformer[-1] if isinstance(transformer, list) else transformer
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BaseError(f"{index} is no index of a diffusers pipeline ({error!r}); fetch the whole repository again") from None


def codec_of(name: str) -> str:
    """What codec and text encoder a base has, as far as its name tells: latents computed for one base serve all that agree.

    All sizes of Wan2.1 share theirs, and so do all tiny bases; another base has its own, known by the last part of its path.
    """
    if name.startswith("wan2.1-"):
        return "wan2.1"
    index = Path(name) / "model_index.json"
    if name == "tiny" or (index.is_file() and _transformer_class(index) == "TinyBase"):
        return "tiny"
    return Path(name).name
