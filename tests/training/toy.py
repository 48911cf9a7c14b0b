"""A method small enough to check by hand: linear regression of a clip's brightness. The loop, not the model, is under test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.bases.base import Base, BaseSpec
from pipeline.bases.flow import FlowSchedule
from pipeline.loader.batch import KINDS, Batch
from pipeline.loader.settings import LoaderSettings
from pipeline.training.method import TrainingMethod
from pipeline.training.randomness import Streams
from pipeline.training.settings import TrainSettings

FEATURES = 5


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(FEATURES, FEATURES)
        self.added = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.added(torch.tanh(self.frozen(x)))


class Network(nn.Module):
    def __init__(self, poison: float | None = None, hungry: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.entry = nn.Linear(FEATURES, FEATURES)  # beside the blocks, as embeddings are; changes nothing
        nn.init.eye_(self.entry.weight)
        nn.init.zeros_(self.entry.bias)
        self.poison, self.hungry = poison, hungry

    def forward(self, x: Tensor, y: Tensor, bad: Tensor) -> dict[str, Tensor]:
        x = self.entry(x)
        for block in self.blocks:
            x = block(x)
        if self.hungry:
            torch.empty(2**60)
        loss = ((x - y) ** 2).mean()
        if self.poison is not None and bad.any():
            loss = loss * self.poison
        return {"loss": loss, "size": (x.detach() ** 2).mean()}


class ToyBase(Base):
    def __init__(self, network: Network) -> None:
        self.spec = BaseSpec("toy", "wan", 8, 1, 3, (1, 1, 1), FEATURES, 4, 4)
        self.transformer, self.schedule = network, FlowSchedule()

    def blocks(self) -> nn.ModuleList:
        return self.transformer.blocks

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.transformer}

    def predict(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        raise NotImplementedError

    encode = decode = embed = predict


class ToyMethod(TrainingMethod):
    name = "toy"

    def __init__(self, *, poison: float | None = None, bad_sample: str = "", hungry: bool = False) -> None:
        torch.manual_seed(0)
        self.model = Network(poison, hungry)
        self.base = ToyBase(self.model)
        self.base.freeze()
        for block in self.model.blocks:
            block.added.requires_grad_(True)
        self.bad_sample = bad_sample

    def inputs(self, batch: Batch, streams: Streams, device: torch.device) -> dict[str, Any]:
        x = batch.pictures(device, torch.float32).mean((1, 3, 4, 5))  # [B,3]
        x = torch.cat([x, streams.normal("noise", (FEATURES - 3,)).to(device)], 1)
        bad = torch.tensor([sample == self.bad_sample for sample in batch.sample_ids], device=device)
        return {"x": x, "y": 3 * x.flip(1), "bad": bad}

    def trained(self) -> dict[str, nn.Parameter]:
        return {
            f"blocks.{i}.{name}": parameter
            for i, block in enumerate(self.model.blocks)
            for name, parameter in block.added.named_parameters()
        }

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        save_file(tensors, folder / "weights.safetensors")
        (folder / "config.json").write_text("{}")

    def load(self, folder: Path) -> None:
        for name, tensor in load_file(folder / "weights.safetensors").items():
            self.trained()[name].data.copy_(tensor)

    def wrapped_blocks(self) -> set[type[nn.Module]]:
        return {Block}

    def validate(self, folder: Path, batch: Batch, seed: int) -> dict[str, float]:
        x = self.model.entry(torch.ones(1, FEATURES))  # by its parts, as videos are generated
        for block in self.model.blocks:
            x = block(x)
        (folder / "seen.txt").write_text(" ".join(batch.sample_ids))
        return {"brightness": float(batch.video.float().mean())}


class ToyLoader:
    """Batches that depend on (step, slot) alone, with the loader's interface. skip: a step at which a sample was replaced."""

    def __init__(self, settings: TrainSettings, rank: int, world: int, step: int, skip: int | None = None) -> None:
        self._settings, self._rank, self._world, self._step, self._skip = settings, rank, world, step, skip

    def state(self) -> dict[str, int]:
        return {"selection": 7, "seed": self._settings.seed, "step": self._step}

    def __iter__(self) -> Iterator[list[Batch]]:
        while True:
            slots = list(range(self._rank, self._settings.loader.batch, self._world))
            size = self._settings.micro_batch or len(slots)
            batches = [toy_batch(self._step, slots[i : i + size]) for i in range(0, len(slots), size)]
            if self._step == self._skip and 0 in slots:
                batches[0].skipped.append("clips_broken: moov atom not found")
            self._step += 1
            yield batches


def toy_batch(step: int, slots: list[int]) -> Batch:
    generators = [torch.Generator().manual_seed(1000 * step + slot) for slot in slots]
    video = torch.stack([torch.randint(256, (1, 3, 1, 2, 2), generator=each, dtype=torch.uint8) for each in generators])
    names = [f"sample-{step}-{slot}" for slot in slots]
    views, captions, metric = [["view00"]] * len(slots), [""] * len(slots), [True] * len(slots)
    return Batch(step, KINDS[step % 2], slots, names, views, captions, metric, None, None, (2, 2), video=video)


def settings_for(output: Path, batch: int = 4, **changes: Any) -> TrainSettings:
    plain: dict[str, Any] = {"method": "toy", "data": "nowhere", "base": "toy", "output": str(output), "precision": "no", "device": "cpu"}
    plain |= {"steps": 6, "lr": 0.01, "checkpoint_every": 2, "log_every": 2, "validate_every": 0, "workers": 0, "quiet": True}
    return TrainSettings(**(plain | {"loader": LoaderSettings(batch=batch, seed=3)} | changes))
