"""How a run ends early: what happened, what to change, and which checkpoint is safe."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.training.checkpoint import latest

if TYPE_CHECKING:
    from pipeline.training.method import TrainingMethod
    from pipeline.training.settings import TrainSettings


class TrainingError(RuntimeError):
    """The run cannot go on. The message says what to change; the commands end with exit status 1."""


def safe(output: Path) -> str:
    """Which state a stopped run can go on from, as the end of a message."""
    newest = latest(output)
    if newest is None:
        return "no checkpoint was written yet"
    return f"training state up to step {newest.step} is in {newest.folder}; go on with the same command and --resume latest"


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
