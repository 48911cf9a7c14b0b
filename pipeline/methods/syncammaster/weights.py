"""The added modules on disk: weights.safetensors and config.json in a folder; and the published Wan checkpoint, imported.

python -m pipeline.methods.syncammaster.weights import step20000.ckpt --base wan2.1-1.3b --output DIR
"""

import argparse
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.bases.registry import BaseError, load_base
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.store import TEMPORARY, sync_folder, write_json
from schemas.typed import RecipeError, build, from_json, to_plain

FORMAT = 1
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
METHOD = "syncammaster"

_log = logging.getLogger(__name__)
# DiffSynth's names of the attention's layers in the published checkpoint -> ours, which are diffusers'.
_LAYERS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_ANCHOR = "blocks.0.cam_encoder.weight"  # its place among the keys tells the prefix of all of them


class WeightsError(ValueError):
    """Weights that cannot be read or do not belong to the model. The message names the tensors, or the base they were made for."""


@dataclass(frozen=True)
class WeightsConfig:
    """config.json: what the weights were trained on, and the architecture to build for them. extra: whatever the run recorded."""

    base: str
    family: str
    dim: int
    blocks: int
    view: ViewConfig
    extra: dict[str, Any] = field(default_factory=dict)
    method: str = METHOD
    format: int = FORMAT


def digest_of(weights: Path) -> str:
    """Hex sha256 of a checkpoint file, or of the weights in a folder."""
    with (weights if weights.is_file() else weights / WEIGHTS).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def save(folder: Path, tensors: Mapping[str, Tensor], config: ViewConfig, base: str, extra: dict[str, Any]) -> None:
    """Write the trained tensors (of `SynCamModel.trained`) and config.json into an existing folder, each file whole or not at all.

    base: the name or folder that `load_base` was given. extra: plain values for JSON (objective, step, seed, ...). Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dim = len(tensors["blocks.0.cam_encoder.bias"])
    family = "wan" if "blocks.0.modulation_mvs" in tensors else "cogvideox"
    document = WeightsConfig(base, family, dim, _count_blocks(tensors), config, extra)
    temporary = folder / f"{TEMPORARY}{WEIGHTS}"
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / CONFIG, to_plain(document))


def read_config(path: Path) -> WeightsConfig:
    """Of a folder that `save` wrote, or of the published checkpoint (a file). Raises WeightsError."""

    if path.is_file():
        return WeightsConfig("wan2.1-1.3b", "wan", 1536, 30, ViewConfig(), {"source": "SynCamMaster Wan2.1 release", "views": 2})
    if not (path / CONFIG).is_file():
        what = f"has no {CONFIG}" if path.is_dir() else "does not exist"
        raise WeightsError(f"weights {path}: the folder {what}; give a folder that training wrote, or the published step20000.ckpt")
    try:
        document = from_json((path / CONFIG).read_text("utf-8"))
        if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
            raise WeightsError(f"{path / CONFIG}: format {document['format']}, this version reads {FORMAT}; use the version that wrote it")
        return build(WeightsConfig, document, str(path / CONFIG))
    except WeightsError:
        raise
    except (RecipeError, ValueError) as error:
        raise WeightsError(f"weights {path}: {error}") from None


def load(folder: Path, model: SynCamModel) -> None:
    """Take up weights that `save` wrote. Raises WeightsError for another base or architecture and for tensors that do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    _check_base(config, model.base)
    ours, theirs = to_plain(model.config), to_plain(config.view)
    differing = [f"{key} {theirs[key]!r}, not {ours[key]!r}" for key in ours if ours[key] != theirs[key]]
    if differing:
        raise WeightsError(f"weights {folder} were trained with {'; '.join(differing)}: build the model with the weights' own config.json")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    _take(tensors, model, str(folder / WEIGHTS))


def load_weights(path: Path, model: SynCamModel) -> None:
    """`load` for a folder; a file is the published checkpoint. Raises WeightsError."""
    if path.is_file():
        _take(import_official(path, model.base), model, str(path))
    else:
        load(path, model)


def import_official(path: Path, base: Base) -> dict[str, Tensor]:
    """The added modules' tensors in the published Wan checkpoint (step20000.ckpt), under our names.

    The file holds the whole transformer in DiffSynth's names, perhaps inside "state_dict" or "module" and under a common prefix.
    Base weights in it that differ from `base`'s are warned of. Raises WeightsError for another base, an unreadable file, and
    missing or misshapen tensors.
    """
    state = _official_state(path)
    official = {name: tensor for name, tensor in state.items() if _is_added(name)}
    config = read_config(path)
    sizes = {"dim": state[_ANCHOR].shape[0], "blocks": _count_blocks(official)}
    _check_base(WeightsConfig(**{**vars(config), **sizes}), base)
    tensors = {_our_name(name): tensor for name, tensor in official.items()}
    _check_tensors(tensors, _expected(**sizes), str(path))
    _warn_of_another_base(state, base, path)
    return tensors


def _official_state(path: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by its DiffSynth name, the common prefix taken off."""
    try:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of torch's old format cannot be mapped
            document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it trips over in a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a torch checkpoint of nothing but tensors: {reason}") from None
    while isinstance(document, Mapping) and (nested := next((document[k] for k in ("state_dict", "module") if k in document), None)):
        document = nested
    keys = [key for key in document if isinstance(key, str)] if isinstance(document, Mapping) else []
    anchors = sorted((key for key in keys if key.endswith(_ANCHOR)), key=len)
    if not anchors:
        raise WeightsError(f"{path}: no SynCamMaster weights; looked for {_ANCHOR!r}, found {_some(keys) or 'no names at all'}")
    prefix = anchors[0].removesuffix(_ANCHOR)
    return {key.removeprefix(prefix): document[key] for key in keys if key.startswith(prefix) and isinstance(document[key], Tensor)}


def _is_added(name: str) -> bool:
    return re.match(r"blocks\.\d+\.(cam_encoder\.|projector\.|modulation_mvs$|mvs_attn\.)", name) is not None


def _our_name(name: str) -> str:
    """ "blocks.0.mvs_attn.o.bias" to "blocks.0.mvs_attn.to_out.0.bias"; the other names are the same."""
    return re.sub(r"\.mvs_attn\.(\w+)\.", lambda found: f".mvs_attn.{_LAYERS.get(found[1], found[1])}.", name)


def _expected(dim: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published model's added modules, 15 tensors a block."""
    shapes: dict[str, tuple[int, ...]] = {"cam_encoder.weight": (dim, 12), "cam_encoder.bias": (dim,), "modulation_mvs": (1, 3, dim)}
    for layer in ("projector", *(f"mvs_attn.{_LAYERS[key]}" for key in "qkvo")):
        shapes |= {f"{layer}.weight": (dim, dim), f"{layer}.bias": (dim,)}
    shapes |= {"mvs_attn.norm_q.weight": (dim,), "mvs_attn.norm_k.weight": (dim,)}
    return {f"blocks.{i}.{name}": shape for i in range(blocks) for name, shape in shapes.items()}


def _warn_of_another_base(state: Mapping[str, Tensor], base: Base, path: Path) -> None:
    """The release froze its base, so the checkpoint's base weights are Wan's own; compared up to half precision's rounding."""
    pairs = {"patch_embedding.weight": base.transformer.get_parameter("patch_embedding.weight")}
    for i, wrapped in enumerate(base.blocks()):
        block: nn.Module = getattr(wrapped, "block", wrapped)
        pairs[f"blocks.{i}.self_attn.q.weight"] = block.get_parameter("attn1.to_q.weight")
    if any(own.is_meta for own in pairs.values()):
        return
    differing = [
        name
        for name, own in pairs.items()
        if name in state
        and not (state[name].shape == own.shape and torch.allclose(state[name].float(), own.detach().cpu().float(), rtol=2**-6, atol=1e-5))
    ]
    if differing:
        _log.warning("%s was trained on other base weights than %s has (%s): expect other results", path, base.spec.name, _some(differing))


def _check_base(config: WeightsConfig, base: Base) -> None:
    """Raise WeightsError where the base's sizes are not those that the weights were trained on."""
    family, dim, blocks = base.spec.family, base.spec.dim, len(base.blocks())
    if (config.family, config.dim, config.blocks) != (family, dim, blocks):
        raise WeightsError(
            f"these weights were trained on {config.base} ({config.family}, dim {config.dim}, {config.blocks} blocks), this base is "
            f"{base.spec.name} ({family}, dim {dim}, {blocks} blocks); give --base {config.base}"
        )


def _take(tensors: Mapping[str, Tensor], model: SynCamModel, where: str) -> None:
    """Copy into the model's parameters, all or nothing."""
    trained = model.trained()
    _check_tensors(tensors, {name: tuple(parameter.shape) for name, parameter in trained.items()}, where)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def _check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    problems = []
    if missing := [name for name in wanted if name not in tensors]:
        problems.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected := [name for name in tensors if name not in wanted]:
        problems.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if misshapen := [n for n, shape in wanted.items() if n in tensors and tuple(tensors[n].shape) != shape]:
        shown = [f"{name} {list(tensors[name].shape)}, not {list(wanted[name])}" for name in misshapen]
        problems.append(f"{len(misshapen)} misshapen ({_some(shown)})")
    if problems:
        raise WeightsError(f"{where}: its tensors do not fit the model: {'; '.join(problems)}")


def _count_blocks(names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names})


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f", and {len(names) - count} more" if len(names) > count else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.methods.syncammaster.weights", description="Weights of SynCamMaster.")
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser(
        "import",
        help="convert the published Wan checkpoint into a folder for pipeline.infer and pipeline.train",
        description="Convert the published SynCamMaster checkpoint for Wan2.1 (step20000.ckpt of KwaiVGI/SynCamMaster-Wan2.1) "
        "into a folder with weights.safetensors and config.json. The base's own weights are not needed.",
    )
    importing.add_argument("checkpoint", type=Path, metavar="CKPT", help="the published file; read with weights_only, nothing in it is run")
    importing.add_argument("--base", default="wan2.1-1.3b", help="the base it belongs to, by name or folder (default: %(default)s)")
    importing.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make; must not exist")
    options = parser.parse_args(arguments)
    if options.output.exists():
        print(f"--output {options.output} exists; name a folder that does not", file=sys.stderr)
        return 2
    if not options.checkpoint.is_file():
        print(f"{options.checkpoint}: no such file; give the published step20000.ckpt", file=sys.stderr)
        return 2
    try:
        _import(options.checkpoint, options.base, options.output)
    except (BaseError, WeightsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.output}: ready for --weights {options.output} --base {options.base}")
    return 0


def _import(checkpoint: Path, base: str, output: Path) -> None:
    tensors = import_official(checkpoint, load_base(base, device="meta", codec=False, seed=0))
    config = read_config(checkpoint)
    temporary = output.parent / f"{TEMPORARY}{output.name}"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    temporary.mkdir(parents=True)
    try:
        save(temporary, tensors, config.view, base, config.extra)
        os.replace(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(output.parent)


if __name__ == "__main__":
    sys.exit(main())
