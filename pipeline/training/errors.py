"""How a run ends early: what happened, what to change, and which checkpoint is safe."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.training.checkpoint import latest

if TYPE_CHECKING:
    from pipeline.training.method import TrainingMethod
    from pipeline.training.settings import TrainSettings

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class TrainingError(RuntimeError):
    """The run cannot go on. The message says what to change; the commands end with exit status 1."""


def safe(output: Path) -> str:
    """Which state a stopped run can go on from, as the end of a message."""
    newest = latest(output)
    if newest is None:
        return "no checkpoint was written yet"
    return f"training state up to step {newest.step} is in {newest.folder}; go on with the same command and --resume latest"


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: a full disk, a quota, a limit on file sizes. Libraries wrap the cause."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is each for each in seen):  # a chain may end in a circle
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if any(f"os error {number})" in str(cause) for number in _FULL) or "No space left on device" in str(cause):
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text or "can't allocate memory" in text)


def out_of_memory(
    settings: "TrainSettings", share: int, step: int, error: BaseException, method: "TrainingMethod | None" = None, world: int = 1
) -> TrainingError:
    """share: samples of a step on this device. method: on the base that ran out; then the advice says what is estimated to fit.

    The error's own first line says what could not be allocated."""
    micro = min(settings.micro_batch or share, share)
    height, width = settings.loader.size
    advice = []
    if micro > 1:
        advice.append(f"--micro-batch {micro // 2} (now {micro})")
    if not settings.gradient_checkpointing:
        advice.append("--gradient-checkpointing")
    if settings.loader.payload == "frames":
        advice.append("--payload latents (see pipeline.encode_latents)")
    advice += [f"fewer --frames (now {settings.loader.frames})", f"a smaller --size (now {height}x{width})"]
    advice.append(f"fewer --views (now {settings.loader.views})")
    if not settings.fsdp:
        advice.append("--fsdp over several GPUs")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    estimated = ""
    if method is not None:
        from pipeline.training.estimate import smaller

        estimated = f" (estimated: {smaller(settings, method, world)})"
    return TrainingError(f"out of memory in step {step + 1}: try {', '.join(advice)}{estimated}; {safe(Path(settings.output))} ({reason})")
