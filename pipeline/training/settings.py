"""What one training run is asked to do. Recorded in DIR/train.json and, as far as it decides the weights, in every checkpoint."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pipeline.loader.settings import LoaderSettings
from pipeline.store import stable_hash
from schemas.typed import RecipeError, bounded, build, to_plain

Precision = Literal["no", "bf16", "fp16"]

# What a resumed run may change: where things are, how they are computed and how often they are written. The data is
# compared by the hash over the chosen samples (the loader's state), so it may have moved or been named otherwise.
FREE = frozenset(
    {"data", "selection", "split", "output", "init_weights", "steps", "micro_batch", "workers", "gradient_checkpointing", "fsdp", "compile"}
    | {"device", "checkpoint_every", "keep", "validate_every", "log_every", "launcher", "ray_workers", "ray_gpus", "quiet"}
)


@dataclass(frozen=True)
class TrainSettings:
    """The defaults are the paper's where it says something: 50,000 steps, learning rate 1e-4, batch 32 at 384 x 672.

    Unknown to us and so our choice: AdamW's betas and weight decay are torch's defaults (as in the Wan release), gradients are
    clipped to a norm of 1 (0: never), bf16, no warm-up, a constant rate. options: the method's own. loader: what is read.
    lr_schedule: "cosine" falls to 0 at `steps`, so there the number of steps cannot be changed later.
    init_weights: what a new run starts from; its hash decides, as it may have moved.
    micro_batch: samples at a time on one device, None for this rank's whole share. validate_every: 0 for never.
    """

    method: str
    data: str
    base: str
    output: str
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    options: dict[str, Any] = field(default_factory=dict)
    selection: str | None = None
    split: str | None = None
    random_base: int | None = bounded(None, low=0)
    init_weights: str | None = None
    init_weights_sha256: str | None = None
    steps: int = bounded(50_000, low=1)
    lr: float = bounded(1e-4, low=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = bounded(0, low=0)
    weight_decay: float = bounded(0.01, low=0)
    max_grad_norm: float = bounded(1.0, low=0)
    precision: Precision = "bf16"
    micro_batch: int | None = bounded(None, low=1)
    workers: int = bounded(4, low=0)
    gradient_checkpointing: bool = False
    fsdp: bool = False
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: int = bounded(1000, low=1)
    keep: int = bounded(3, low=1)
    validate_every: int = bounded(1000, low=0)
    log_every: int = bounded(10, low=1)
    launcher: Literal["local", "ray"] = "local"
    ray_workers: int = bounded(1, low=1)
    ray_gpus: float | None = bounded(None, low=0)
    quiet: bool = False

    @property
    def seed(self) -> int:
        return self.loader.seed

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: a function of the step alone, so nothing of it needs to be saved."""
        rate = self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        if self.lr_schedule == "cosine":
            done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            rate *= (1 + math.cos(math.pi * min(1.0, done))) / 2
        return rate

    def deciding(self) -> dict[str, Any]:
        """The part that decides the weights, ready for JSON."""
        free = FREE - {"steps"} if self.lr_schedule == "cosine" else FREE
        return {name: value for name, value in to_plain(self).items() if name not in free}

    def digest(self) -> str:
        return stable_hash(self.deciding())

    def namespace(self) -> argparse.Namespace:
        """What `build` of a method is given: all that is set, flat, the method's own options as it named them."""
        plain: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("loader", "options")}
        plain |= {each.name: getattr(self.loader, each.name) for each in fields(self.loader)}
        return argparse.Namespace(**(plain | self.options))


LOADER_FIELDS = tuple(each.name for each in fields(LoaderSettings))


def make_settings(given: Mapping[str, Any], defaults: Mapping[str, Any], options: Mapping[str, Any]) -> TrainSettings:
    """Settings from what the command line gave, over the method's defaults for the base, over the paper's.

    given, defaults: fields of TrainSettings and of LoaderSettings, flat. options: the method's own. Raises RecipeError.
    """
    flat = {**defaults, **given}
    loader = {name: to_plain(flat.pop(name)) for name in LOADER_FIELDS if name in flat}
    return build(TrainSettings, {**flat, "loader": loader, "options": dict(options)}, "settings")


def from_plain(plain: Mapping[str, Any], where: str) -> TrainSettings:
    """The inverse of `to_plain`. Raises RecipeError."""
    return build(TrainSettings, plain, where)


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two `deciding()`, a line each: "loader.batch was 32, is 8"."""
    lines = []
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name} was {before!r}, is {after!r}")
    return lines


def check_together(settings: TrainSettings) -> None:
    """What fields cannot say one by one. Raises RecipeError."""
    if settings.micro_batch is not None and settings.micro_batch > settings.loader.batch:
        raise RecipeError(f"--micro-batch {settings.micro_batch} is more than --batch {settings.loader.batch}")
    if settings.lr == 0:
        raise RecipeError("--lr 0 trains nothing; the paper's is 1e-4")
    if settings.warmup >= settings.steps:
        raise RecipeError(f"--warmup {settings.warmup} leaves no step of --steps {settings.steps}")
