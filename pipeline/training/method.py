"""What the training loop needs of a method. The loop knows nothing of views, cameras or bases."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.loader.batch import Batch
from pipeline.training.randomness import Streams


class TrainingMethod(ABC):
    """One method on one base, ready to train.

    model: the module that the loop wraps (DDP, FSDP, compile) and whose parameters with requires_grad train. Its forward takes
    what `inputs` returned, as keywords, and returns {"loss": scalar, ...}; other entries are scalars for the log.
    """

    name: str
    base: Base
    model: nn.Module

    @abstractmethod
    def inputs(self, batch: Batch, streams: Streams, device: torch.device) -> dict[str, Any]:
        """Without gradient: encode pictures and texts, draw timesteps, noise and dropouts from `streams`. Depends on nothing but
        its arguments, so that a resumed run draws the same."""

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """Exactly the parameters that train, under the names they are saved with."""

    @abstractmethod
    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Write `tensors` (of `trained`, gathered on the CPU) as weights.safetensors with config.json into the existing folder:
        all that `pipeline.infer` needs beside the base."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up weights that `save` wrote, or a published file of the method where there is one. Raises ValueError
        that names missing, unexpected and misshapen tensors."""

    @abstractmethod
    def wrapped_blocks(self) -> set[type[nn.Module]]:
        """Classes of the repeated blocks: the units of FSDP and of gradient checkpointing."""

    def validate(self, folder: Path, batch: Batch, seed: int) -> dict[str, float]:
        """Write validation videos for the batch into the folder and return scalars for the log."""
        return {}
