"""Where a command computes, and in which arithmetic, as its options --device and --precision say."""

from typing import Any

PRECISIONS = ("no", "bf16", "fp16")  # "no" is float32


def device_of(name: str) -> str:
    """`name`, or for "auto" a GPU where there is one. Raises ValueError for a device that PyTorch does not have."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is no device; give auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs here; give --device cpu, or one that is there")
    return name


def precision_of(precision: str | None, device: str) -> str:
    """`precision`, or where none is asked for what suits the device: bf16 on a GPU, float32 elsewhere."""
    return precision or ("bf16" if device.startswith("cuda") else "no")


def dtype_of(precision: str) -> Any:
    """The torch.dtype of a precision."""
    import torch

    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
