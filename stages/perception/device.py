"""Where a model computes, and in which arithmetic."""

from typing import TYPE_CHECKING, Any, Literal

from schemas.typed import RecipeError, nearest

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "fp16", "bf16"]


def torch_device(device: str) -> "torch.device":
    """device as torch has it; "auto" is the first GPU where there is one. Raises RecipeError for what this machine lacks."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise RecipeError(f'no device {device!r}; allowed: "auto", "cpu", "cuda", "cuda:1" and so on') from None
    if found.type == "cuda" and not 0 <= (found.index or 0) < torch.cuda.device_count():
        raise RecipeError(f'device is {device!r}, but torch sees {torch.cuda.device_count()} GPUs here; "auto" takes what there is')
    return found


def lower(module: "torch.nn.Module", precision: Precision) -> None:
    """Lets one module compute in half precision. What goes in, what comes out and the stored weights stay in fp32."""
    import torch

    if precision == "fp32":
        return
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in kinds:
        raise RecipeError(f"no precision {precision!r}{nearest(precision, ('fp32', *kinds))}")
    kind, plain = kinds[precision], module.forward

    def forward(inputs: "torch.Tensor", *more: Any, **named: Any) -> "torch.Tensor":
        with torch.autocast(inputs.device.type, dtype=kind):
            return plain(inputs, *more, **named).float()

    module.forward = forward
