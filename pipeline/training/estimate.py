"""What a run will need, before it starts: parameters, memory, work and passes over the data. An estimate, and it says so.

Memory of one device, in bytes:
  weights      what is frozen in the computing precision, what trains in float32
  training     8 per trained parameter for AdamW's two moments, 4 for its gradient
  activations  tokens of a micro-batch x width x blocks x 34 x 2: a transformer block with fused attention keeps about 34 bytes per
               token and unit of width in 16 bits ("Reducing Activation Recomputation in Large Transformer Models", arXiv
               2205.05198), and an added module is reckoned as a block of its own; twice that in float32. With gradient
               checkpointing: one input per block, and one block at work.
Not counted: the codec's and the text encoder's work, the allocator's losses, what CUDA itself takes (about 1 GB).

Memory of the host, in bytes: workers x the steps that each keeps in /dev/shm x the pictures of a step.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.bases.registry import NAMED, codec_of
from pipeline.loader.batch import KINDS
from pipeline.loader.loader import step_bytes, steps_held
from pipeline.training.method import TrainingMethod
from pipeline.training.settings import TrainSettings

_KEPT = 34  # bytes per token and unit of width of one block in 16 bits
_WITH_ADDED = 2  # a block and what a method adds to it
_SHARED = Path("/dev/shm")

# config.json of google/t5-v1_1-xxl and google/umt5-xxl, the text encoders of the named bases, which differ in the vocabulary and
# in who has a table of positions: UMT5 every block, T5 the first. Where the base is not loaded, this says what it will take.
_T5: dict[str, Any] = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    frozen: int
    trained: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.training + self.activations


def describe(settings: TrainSettings, method: TrainingMethod, world: int = 1) -> Iterator[str]:
    """Lines for people: parameters, memory, floating-point operations of a step."""
    trained = sum(parameter.numel() for parameter in method.trained().values())
    for name, module in _parts(settings, method).items():
        added = sum(each.numel() for each in {id(p): p for p in module.parameters()}.values() if each.requires_grad)
        beside = f", {added:,} of them to train" if added else ""
        yield f"{name}: {_count(module):,} parameters{beside}"
    yield f"trained: {trained:,} parameters ({settings.method}, on {method.base.spec.name})"
    memory = estimate(settings, method, world)
    yield (
        f"memory of one device, estimated: {memory.total / 1e9:.2f} GB = {memory.frozen / 1e9:.2f} frozen weights + "
        f"{memory.trained / 1e9:.2f} trained weights + {memory.training / 1e9:.2f} gradients and AdamW + "
        f"{memory.activations / 1e9:.2f} activations of {_micro_batch(settings, world)} samples at a time"
    )
    yield smaller(settings, method, world)
    yield from host_memory(settings, world)


def smaller(settings: TrainSettings, method: TrainingMethod, world: int = 1) -> str:
    """What fewer samples at a time would take, as a line for people; with a GPU at hand, which of it fits."""
    now = estimate(settings, method, world).total
    tried = list(_smaller(settings, method, world))
    if not tried:
        return "less memory: nothing is left of --micro-batch and --gradient-checkpointing; a smaller --size, fewer --frames or --views"
    least = f"least: {tried[-1][0]}: about {tried[-1][1] / 1e9:.0f} GB"
    if not torch.cuda.is_available():
        return f"less memory, {least}"
    room = 0.9 * torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    fitting = [(total, options) for options, total in tried if total <= room and total < now]
    if not fitting:
        return f"less memory, {least}; by this estimate it does not fit the {room / 1e9:.0f} GB that can be used here"
    total, options = max(fitting)
    return f"less memory, the most that fits here: {options}: about {total / 1e9:.0f} GB; {least}"


def _smaller(settings: TrainSettings, method: TrainingMethod, world: int) -> Iterator[tuple[str, int]]:
    """(options, bytes), the micro-batch halved down to 1, without and with recomputed blocks. The last takes the least."""
    micro = now = _micro_batch(settings, world)
    while True:
        for checkpointing in (False, True):
            if checkpointing >= settings.gradient_checkpointing and (micro, checkpointing) != (now, settings.gradient_checkpointing):
                tried = replace(settings, micro_batch=micro, gradient_checkpointing=checkpointing)
                options = f"--micro-batch {micro}" + " --gradient-checkpointing" * checkpointing
                yield options, estimate(tried, method, world).total
        if micro == 1:
            return
        micro //= 2


def host_memory(settings: TrainSettings, world: int = 1) -> Iterator[str]:
    """What batches take of this host's memory, and whether there is room; as lines for people."""
    step = step_bytes(settings.loader, world)
    if not (step and settings.workers):
        return
    held, processes = steps_held(settings.loader, world), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needs = processes * settings.workers * held * step
    line = (
        f"host memory for batches: {needs / 1e9:.2f} GB = {processes} processes of a host x {settings.workers} workers x {held} steps "
        f"x {step / 1e9:.2f} GB"
    )
    if not _SHARED.is_dir():
        yield line
        return
    room = shutil.disk_usage(_SHARED).total
    yield f"{line}; {_SHARED} has {room / 1e9:.2f} GB"
    if needs > room:
        fits = int(room // (processes * held * step))
        advice = f"--workers {fits}" if fits else "--workers 0"
        yield f"warning: batches do not fit {_SHARED}, and a reading process may die: {advice}, or a larger {_SHARED} (docker: --shm-size)"


def text_encoder(name: str) -> nn.Module | None:
    """The text encoder of a named base, on the meta device; None of any other."""
    if name not in NAMED or name == "tiny":
        return None
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        if codec_of(name) == "wan2.1":
            return UMT5EncoderModel(UMT5Config(vocab_size=256384, **_T5))
        return T5EncoderModel(T5Config(vocab_size=32128, **_T5))


def estimate(settings: TrainSettings, method: TrainingMethod, world: int = 1) -> Memory:
    word = 4 if settings.precision == "no" else 2
    trained = sum(parameter.numel() for parameter in method.trained().values())
    base = method.base.modules()
    own = {id(each): each for root in (method.model, *base.values()) for each in root.parameters()}.values()
    frozen = sum(each.numel() * each.element_size() for each in own if not each.requires_grad)
    frozen += sum(word * _count(module) for name, module in _parts(settings, method).items() if name not in base)
    shards = world if settings.fsdp else 1
    return Memory(frozen // shards, 4 * trained // shards, 12 * trained // shards, _activations(settings, method, world, word))


def _parts(settings: TrainSettings, method: TrainingMethod) -> dict[str, nn.Module]:
    """The base's, and the text encoder that a run will load but a dry run has not."""
    parts = method.base.modules()
    if settings.loader.payload == "frames" and settings.random_base is None and "text_encoder" not in parts:
        encoder = text_encoder(settings.base)
        parts = parts if encoder is None else {**parts, "text_encoder": encoder}
    return parts


def _activations(settings: TrainSettings, method: TrainingMethod, world: int, word: int) -> int:
    spec, loader = method.base.spec, settings.loader
    h, w = spec.latent_size(*loader.size)
    most = 0
    for kind in KINDS:
        if loader.share(kind):
            f = spec.latent_frames(loader.frames_of(kind))
            tokens = loader.views_of(kind) * (f * h * w // (spec.patch[0] * spec.patch[1] * spec.patch[2]) + spec.text_tokens)
            most = max(most, tokens)
    width = _micro_batch(settings, world) * most * spec.dim
    blocks = len(method.base.blocks())
    kept = _KEPT * _WITH_ADDED * word // 2
    return width * (word * blocks + kept) if settings.gradient_checkpointing else width * kept * blocks


def _micro_batch(settings: TrainSettings, world: int) -> int:
    share = -(-settings.loader.batch // world)
    return min(settings.micro_batch or share, share)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
