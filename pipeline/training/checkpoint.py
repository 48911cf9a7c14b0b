"""DIR/checkpoints/step-00001000: complete or not there. Written beside, flushed to the disk, then renamed.

weights.safetensors, config.json   the trained part, by the method: all that inference needs beside the base
optimizer.safetensors              "<parameter>|<entry>", e.g. "blocks.0.projector.weight|exp_avg"
state.json                         steps done, the loader's three integers, the settings that decide the weights, versions
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.store import TEMPORARY, sync_folder
from schemas.typed import from_json

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS, WEIGHTS = "checkpoints", "weights"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from."""


@dataclass(frozen=True)
class Checkpoint:
    """step: how many steps are done."""

    folder: Path
    step: int

    def state(self) -> dict[str, Any]:
        """Raises CheckpointError."""
        try:
            state = from_json((self.folder / STATE).read_text("utf-8"))
            return {"loader": {}, "settings": {}, **state, "step": int(state["step"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder / STATE} cannot be read ({error}); resume from another checkpoint") from None

    def optimizer(self) -> "dict[str, dict[str, Tensor]]":
        """Tensors by parameter and entry, on the CPU. Raises CheckpointError for a damaged file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            flat = load_file(self.folder / OPTIMIZER)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder / OPTIMIZER} cannot be read ({error}); resume from another checkpoint") from None
        made: dict[str, dict[str, Tensor]] = {}
        for name, tensor in flat.items():
            parameter, entry = name.rsplit("|", 1)
            made.setdefault(parameter, {})[entry] = tensor
        return made


def every(output: Path) -> list[Checkpoint]:
    """The complete checkpoints of an output folder, ascending by step."""
    root = output / CHECKPOINTS
    found = [(path, _NAME.fullmatch(path.name)) for path in root.iterdir()] if root.is_dir() else []
    made = [Checkpoint(path, int(match[1])) for path, match in found if match and (path / STATE).is_file()]
    return sorted(made, key=lambda each: each.step)


def latest(output: Path) -> Checkpoint | None:
    return next(reversed(every(output)), None)


def at(folder: Path) -> Checkpoint:
    """The checkpoint in a folder that a person named. Raises CheckpointError."""
    if not (folder / STATE).is_file():
        inside = latest(folder)
        hint = f"; the newest one below it is {inside.folder}" if inside else "; a checkpoint is a folder DIR/checkpoints/step-..."
        raise CheckpointError(f"--resume {folder}: there is no {STATE}{hint}")
    return Checkpoint(folder, Checkpoint(folder, 0).state()["step"])


def write(
    output: Path,
    step: int,
    save: Callable[[Path], None],
    optimizer: "Mapping[str, Mapping[str, Tensor]]",
    state: Mapping[str, Any],
    keep: int,
) -> Checkpoint:
    """Write the checkpoint of `step`, point DIR/weights to it, and only then remove those beyond the newest `keep`.

    save: writes weights.safetensors and config.json into a folder. On any error the half-written folder is removed and what
    was there before stays; the error is raised as it came.
    """
    from safetensors.torch import save_file

    root = output / CHECKPOINTS
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:08d}"
    temporary = root / f"{TEMPORARY}{secrets.token_hex(6)}"
    temporary.mkdir()
    try:
        save(temporary)
        flat = {f"{name}|{entry}": tensor.contiguous() for name, entries in optimizer.items() for entry, tensor in entries.items()}
        save_file(flat, temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps({"step": step, **state}, indent=1, sort_keys=True) + "\n", "utf-8")
        _sync(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(root)
    _publish(final, output / WEIGHTS)
    for old in every(output)[:-keep]:
        _remove(old.folder)
    return Checkpoint(final, step)


def size(tensors: "Mapping[str, Tensor]", optimizer: "Mapping[str, Mapping[str, Tensor]]") -> int:
    """Bytes that a checkpoint of these takes."""
    every_tensor = [*tensors.values(), *(tensor for entries in optimizer.values() for tensor in entries.values())]
    return sum(tensor.numel() * tensor.element_size() for tensor in every_tensor)


def sweep(output: Path) -> None:
    """Remove what a killed run left half-written."""
    for folder in (output / CHECKPOINTS, output / WEIGHTS):
        for path in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _publish(checkpoint: Path, weights: Path) -> None:
    """DIR/weights holds what inference needs of the newest checkpoint: links to its files, or copies where links cannot be."""
    for source in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in (OPTIMIZER, STATE)):
        target = weights / source.relative_to(checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = weights / f"{TEMPORARY}{secrets.token_hex(6)}"
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _remove(folder: Path) -> None:
    """Renamed first: half a checkpoint never stands under a checkpoint's name."""
    temporary = folder.parent / f"{TEMPORARY}{secrets.token_hex(6)}"
    os.rename(folder, temporary)
    shutil.rmtree(temporary)
