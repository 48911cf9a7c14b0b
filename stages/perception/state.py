"""Checkpoint files into modules: nothing but tensors is ever unpickled, and what does not fit is named."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from stages.media.chunks import STUMBLES
from stages.perception.weights import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_NAMED = 4  # tensors that a message lists


def read_state(path: Path, *, harmless: tuple[type, ...] = ()) -> dict[str, Any]:
    """What a checkpoint file holds: names to tensors, or what its author nested them in. On the CPU.

    harmless: types beside tensors and plain containers that an official file needs to be read. Raises WeightsError for a file
    that is damaged, or would run code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(list(harmless)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, OSError, *STUMBLES) as error:
        raise WeightsError(
            f"{path} is no checkpoint that can be read safely ({_reason(error)}); fetch it again, or ask whence it came"
        ) from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}; a checkpoint is a mapping of names to tensors")
    return found


def load_strict(model: "nn.Module", state: Mapping[str, "Tensor"], what: str) -> None:
    """Every tensor of the model from the state, and no other. what: the file, for messages. Raises WeightsError."""
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(str(name) for name in set(state) - set(wanted))
    shapes = [
        f"{name} {_shape(state[name])} instead of {_shape(wanted[name])}"
        for name in sorted(set(wanted) & set(state))
        if _shape(state[name]) != _shape(wanted[name])
    ]
    problems = [
        f"{len(names)} {how}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        for how, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(f"{what} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(dict(state))


def _shape(value: Any) -> str:
    return str(list(value.shape)) if hasattr(value, "shape") else f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    """One line of the error: the one in which torch names what it would not unpickle, else the first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    marker = "WeightsUnpickler error: "
    return next((line.partition(marker)[2].strip() for line in lines if marker in line), lines[0])
