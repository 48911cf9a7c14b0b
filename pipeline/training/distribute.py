"""One model on one device, copied to many (DDP), or sharded over them (FSDP); and its tensors whole again for a checkpoint.

`accelerate` finds the processes and devices, whoever started them (torchrun, accelerate launch, Ray Train). Sharding is torch's
own `fully_shard`: it keeps the parameters' names and, unlike accelerate's plugin, also shards on CPUs, where we test it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.training.method import TrainingMethod
from pipeline.training.settings import TrainSettings
from schemas.typed import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator

_PATIENCE = timedelta(hours=2)  # ranks wait while the first one validates or writes a checkpoint


def world_size() -> int:
    """Processes of this run, as whoever started them told each."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_devices(settings: TrainSettings, world: int) -> None:
    """Raises RecipeError for settings that do not fit the processes and devices at hand."""
    cuda, batch = torch.cuda.is_available(), settings.loader.batch
    if settings.device == "cuda" and not cuda:
        raise RecipeError("--device cuda: torch sees no CUDA device; use --device cpu, or check nvidia-smi and the torch build")
    if settings.precision == "fp16" and (settings.device == "cpu" or not cuda):
        raise RecipeError("--precision fp16 needs a CUDA device; on the CPU use no or bf16")
    if batch < world:
        raise RecipeError(f"--batch {batch} leaves some of {world} processes without a sample; give at least --batch {world}")
    if settings.fsdp and "RANK" not in os.environ:
        raise RecipeError("--fsdp needs processes to shard over: torchrun --nproc-per-node N -m pipeline.train ...")
    if settings.fsdp and batch % world:
        raise RecipeError(f"--fsdp needs a --batch that the number of processes divides, got {batch} over {world}")
    if settings.fsdp and settings.precision == "fp16":
        raise RecipeError("--fsdp takes --precision bf16 or no; fp16's gradient scaling is not sharded")


def make_accelerator(settings: TrainSettings) -> "Accelerator":
    """Raises RecipeError as `check_devices` does."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    check_devices(settings, world_size())
    return Accelerator(
        mixed_precision=settings.precision,
        cpu=settings.device == "cpu" or not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True), InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def place(method: TrainingMethod, settings: TrainSettings, accelerator: "Accelerator") -> nn.Module:
    """Move everything to the device, and wrap the model as the settings say; what to call for a forward pass.

    Blocks are recomputed, compiled and sharded in place: the modules keep their names, and the method its references.
    """
    blocks = [module for module in method.model.modules() if isinstance(module, tuple(method.wrapped_blocks()))]
    if settings.gradient_checkpointing:
        for block in blocks:
            _recompute(block)
    if settings.compile:
        for block in blocks:
            block.compile()
    if not settings.fsdp:
        for module in method.base.modules().values():
            module.to(accelerator.device)
        prepared: nn.Module = accelerator.prepare_model(method.model)
        return prepared
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for module in method.base.modules().values():
        if not _within(module, method.model):
            module.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(method.model, mesh=mesh)
    return method.model


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, what a sharded model holds beside its blocks is whole, so that its parts can be called by themselves: only the
    model's own forward pass would gather it, as each block's gathers the block. All ranks must enter. Else nothing."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def set_modes(method: TrainingMethod) -> None:
    """Modules in which something trains are in training mode; frozen ones stay in evaluation mode."""
    for root in [method.model, *method.base.modules().values()]:
        for module in root.modules():
            module.training = any(parameter.requires_grad for parameter in module.parameters())


def raise_precision(parameters: Iterable[nn.Parameter]) -> None:
    """What trains is kept and updated in float32; autocast computes with it in the precision asked for."""
    for parameter in parameters:
        parameter.data = parameter.data.float()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shards, on every rank (all must call); as it is where it is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor on the CPU, to where and how the parameter lies."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)


def _recompute(block: nn.Module) -> None:
    from torch.utils.checkpoint import checkpoint

    forward: Any = block.forward

    def recomputed(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    block.forward = recomputed  # type: ignore[method-assign]


def _within(module: nn.Module, model: nn.Module) -> bool:
    return any(each is module for each in model.modules())
