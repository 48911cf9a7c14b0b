"""Weights in the layout of `diffusers`' pipelines: from a folder or the hub, or random ones of the same architecture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.bases.registry import BaseError
from schemas.typed import object_from_json


def fetched(name: str, source: str, parts: Sequence[str]) -> Path:
    """The folder with the `parts` (sub-folders) of `source`: a folder itself, or a hub repository from the cache or the network.

    Raises BaseError that says what to fetch, from where, and how to pass it.
    """
    if Path(source).is_dir():
        folder = Path(source)
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, allow_patterns=["model_index.json", *(f"{part}/*" for part in parts)]))
        except OSError as error:
            raise BaseError(
                f"--base {name}: {source} is not in this machine's Hugging Face cache and could not be fetched "
                f"({str(error).splitlines()[0]}). {_how(name, source)}"
            ) from None
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        where = f"{folder} has no {', '.join(f'{part}/' for part in missing)}"
        raise BaseError(f"--base {name}: {where}. {_how(name, source) if source != str(folder) else 'Fetch the whole repository'}")
    return folder


def _how(name: str, source: str) -> str:
    return f"Where there is internet, run `hf download {source} --local-dir DIR`; then pass --base DIR instead of {name}"


@contextmanager
def named_failure(name: str, folder: Path) -> Iterator[None]:
    """Whatever `diffusers` and `transformers` raise for broken weights, as one BaseError that names the folder."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseError(f"--base {name}: the weights below {folder} cannot be loaded: {reason}") from error


def configuration(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder, without the entries that describe the file. Raises BaseError."""
    try:
        document = object_from_json((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseError(f"{folder / 'config.json'}: {error}") from None
    return {key: value for key, value in document.items() if not key.startswith("_")}


def random_model(cls: type[Any], config: dict[str, Any], dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """A model of `diffusers` or `transformers` with random weights, in the precisions in which it would be loaded; "meta" works too."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        model: nn.Module = cls(**config)
    kept = set(getattr(cls, "_keep_in_fp32_modules", None) or ())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and not kept & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return model.eval()
