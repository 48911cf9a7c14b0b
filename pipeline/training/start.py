"""From settings to a running loop: the data and the base checked before anything is written."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import file_digest
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bases.registry import codec_of
from pipeline.device import dtype_of
from pipeline.exhausted import is_full, is_out_of_memory
from pipeline.loader.batch import KINDS, Batch
from pipeline.loader.catalog import Catalog
from pipeline.loader.check import check
from pipeline.loader.fetch import ReadError, StorageError
from pipeline.loader.loader import Loader, LoaderError
from pipeline.loader.order import Order, OrderError
from pipeline.loader.settings import LoaderSettings
from pipeline.store import write_json
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.errors import TrainingError, out_of_memory, safe
from pipeline.training.method import TrainingMethod
from pipeline.training.settings import TrainSettings, check_together, differences
from schemas.typed import RecipeError, to_plain

if TYPE_CHECKING:
    from pipeline.bases.base import BaseSpec

RECORD = "train.json"
RAY = ".ray"  # what Ray Train keeps for itself; the launcher makes it before the workers look at the folder
_HELD_SAMPLES = 2  # samples of which validation videos are made


def open_output(settings: TrainSettings, resume: str | None) -> Checkpoint | None:
    """The checkpoint to go on from, None for a fresh start. Reads only. Raises CheckpointError for a folder that must not be used.

    resume: "latest" goes on from the newest checkpoint of the output folder, or starts where there is none yet, so that one
    command line serves every start of a job; a path goes on from that checkpoint.
    """
    check_together(settings)
    output = Path(settings.output)
    found = [path.name for path in output.iterdir() if path.name != RAY] if output.is_dir() else []
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"--output {output} is a file; name a folder")
    newest = checkpoint.latest(output)
    if resume is None:
        if found:
            has = f"holds a run up to step {newest.step}" if newest else f"is not empty ({', '.join(sorted(found)[:3])}, ...)"
            raise CheckpointError(f"--output {output} {has}; go on with --resume latest, or name another folder")
        return None
    if resume != "latest":
        chosen: Checkpoint | None = checkpoint.at(Path(resume))
        if chosen and newest and newest.step > chosen.step:
            raise CheckpointError(
                f"--resume {resume} is step {chosen.step}, but {output} goes on to step {newest.step}: --resume latest, or another --output"
            )
    else:
        chosen = newest
        if chosen is None and found and RECORD not in found:
            raise CheckpointError(f"--resume latest: {output} is not the folder of a training run (no {RECORD}); name another --output")
    if chosen is not None:
        _check_settings(settings, chosen)
    return chosen


def _check_settings(settings: TrainSettings, chosen: Checkpoint) -> None:
    now = json.loads(json.dumps(settings.deciding()))
    changed = differences(chosen.state()["settings"], now)
    if changed:
        raise CheckpointError(
            f"{chosen.folder} was trained with other settings: {'; '.join(changed)}. Give the same ones to go on (steps, cadence, "
            f"micro-batch, workers and placement may change), or start a new run in another --output"
        )


def describe(settings: TrainSettings) -> Iterator[str]:
    """What a run with these settings would be, for --dry-run. Loads no weights and writes nothing; raises what `start` raises."""
    from pipeline.training import estimate
    from pipeline.training.distribute import check_devices, world_size

    workers = settings.ray_workers if settings.launcher == "ray" else world_size()
    if settings.launcher == "local":
        check_devices(settings, workers)
    catalog = Catalog.open(settings.data, settings.selection, settings.split)
    yield from check_data(catalog, settings)
    method = make_method(settings, hollow=True)
    _check_latents(catalog, settings, method.base.spec)
    _take_init(settings, method)
    yield from estimate.describe(settings, method, workers)


@contextmanager
def _skipped_are_named_by_the_log() -> Iterator[None]:
    """The run's own log names skipped samples; the loader's warnings would say it twice."""
    logger = logging.getLogger("pipeline.loader")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@_skipped_are_named_by_the_log()
def start(settings: TrainSettings, resume: Checkpoint | None) -> int:
    """Train; returns the number of steps done. Raises TrainingError for what fails under way, ValueError for wrong usage."""
    from pipeline.training.distribute import check_devices, world_size

    main = int(os.environ.get("RANK", "0")) == 0
    output = Path(settings.output)
    if resume and resume.step >= settings.steps:
        _say(settings, main, f"{resume.folder} is trained for {resume.step} steps already; --steps {resume.step + 1} or more goes on")
        return resume.step
    check_devices(settings, world_size())
    catalog = Catalog.open(settings.data, settings.selection, settings.split)
    for line in check_data(catalog, settings):
        _say(settings, main, line)
    try:
        method = make_method(settings)
        _check_latents(catalog, settings, method.base.spec)
        if resume is None:
            _take_init(settings, method)
        held = held_batch(catalog, settings.loader) if settings.validate_every else None
        if main:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / RECORD, _record(settings, catalog, method, resume))
        return _run(settings, catalog, method, resume, held)
    except (LoaderError, OrderError, StorageError) as error:
        raise TrainingError(f"{error}; {safe(output)}") from error
    except Exception as error:
        if is_full(error):
            raise TrainingError(f"no space in {output} ({error}); {safe(output)}") from error
        if is_out_of_memory(error):
            raise out_of_memory(settings, settings.loader.batch, resume.step if resume else 0, error) from error
        if isinstance(error, OSError):
            raise TrainingError(f"{error}; --output must be a folder that can be written; {safe(output)}") from error
        raise


def _run(settings: TrainSettings, catalog: Catalog, method: TrainingMethod, resume: Checkpoint | None, held: Batch | None) -> int:
    from pipeline.training.loop import run

    def make_loader(rank: int, world: int, step: int) -> Loader:
        return Loader(
            catalog, settings.loader, rank=rank, world=world, workers=settings.workers, step=step, micro_batch=settings.micro_batch
        )

    return run(settings, method, make_loader, resume=resume, held=held)


def check_data(catalog: Catalog, settings: TrainSettings) -> list[str]:
    """The data mix and what is thin in it, line by line. Raises RecipeError where training on it cannot work."""
    problems = _payload_problems(catalog, settings)
    if not problems:
        report = check(catalog, settings.loader, settings.steps)
        problems = report.problems
    if problems:
        raise RecipeError(f"{settings.data} does not fit these settings: {'; '.join(problems)}")
    return report.lines()


def _payload_problems(catalog: Catalog, settings: TrainSettings) -> list[str]:
    """Latents are of one base, size and sampling of frames, and training must ask for the same."""
    encoding, loader = catalog.encoding, settings.loader
    if loader.payload == "frames":
        return [] if encoding is None else ["it holds latents, not frames; use --payload latents"]
    if encoding is None:
        return ["it holds frames, not latents; encode them with python -m pipeline.encode_latents, or use --payload frames"]
    asked: dict[str, Any] = {"size": list(loader.size), "frames": loader.frames, "frame_stride": loader.frame_stride}
    if "base" in encoding and codec_of(settings.base) != codec_of(str(encoding["base"])):
        asked["base"] = settings.base
    return [
        f"it was encoded with {name} {encoding[name]}, these settings ask for {value}; ask for the same, or encode again"
        for name, value in asked.items()
        if encoding.get(name) not in (None, value)
    ]


def _check_latents(catalog: Catalog, settings: TrainSettings, spec: "BaseSpec") -> None:
    """Two bases may lie in folders of one name. Raises RecipeError where latents or texts are not as this base has them."""
    encoding = catalog.encoding if settings.loader.payload == "latents" else None
    if encoding is None:
        return
    has = {name: getattr(spec, name) for name in ("channels", "text_tokens", "text_dim")}
    wrong = [f"{name} {encoding[name]} instead of {value}" for name, value in has.items() if encoding.get(name) not in (None, value)]
    if wrong:
        raise RecipeError(f"{catalog.location} was encoded with another base than {spec.name} ({', '.join(wrong)}); encode again with it")


def make_method(settings: TrainSettings, hollow: bool = False) -> TrainingMethod:
    """The method on its base. hollow: on the meta device, shapes without weights, where the base is one that we know by name.

    Raises BaseError for a base that cannot be had, RecipeError for sizes that it does not take.
    """
    import torch

    from pipeline.bases.registry import NAMED, load_base
    from pipeline.methods.registry import TRAINING

    torch.manual_seed(settings.seed)  # what a method makes at random, the same on every rank
    named = hollow and settings.base in NAMED
    base = load_base(
        settings.base,
        dtype=dtype_of(settings.precision),
        device="meta" if named else "cpu",
        codec=settings.loader.payload == "frames",
        seed=0 if named else settings.random_base,
    )
    try:
        base.spec.latent_size(*settings.loader.size)
        for kind in KINDS:
            if settings.loader.share(kind):
                base.spec.latent_frames(settings.loader.frames_of(kind))
        made: TrainingMethod = import_module(TRAINING[settings.method]).build(base, settings.namespace())
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return made


def weights_digest(path: Path) -> str:
    """Hex sha256 of weights to start from: a file, or the one that a method saved in a folder. Raises RecipeError."""
    named = [path / "weights.safetensors", path / "transformer" / "diffusion_pytorch_model.safetensors"]
    file = path if path.is_file() else next((each for each in named if each.is_file()), None)
    if file is None:
        inside = f"; give {path / 'weights'}" if (path / "weights").is_dir() else ""
        raise RecipeError(f"--init-weights {path} is neither a file nor a folder of weights that training wrote{inside}")
    try:
        with file.open("rb") as opened:
            return file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"--init-weights {path} cannot be read ({error})") from None


def _take_init(settings: TrainSettings, method: TrainingMethod) -> None:
    """Start from --init-weights, where given. Raises RecipeError for weights that do not fit."""
    from pipeline.training.distribute import raise_precision

    if settings.init_weights is None:
        return
    raise_precision(method.trained().values())  # before, or what is read would be rounded
    try:
        method.load(Path(settings.init_weights))
    except ValueError as error:
        raise RecipeError(f"--init-weights: {error}") from None


def held_batch(catalog: Catalog, loader: LoaderSettings) -> Batch:
    """A fixed batch for validation: of the kind with the largest share, at any angle, drawn with the next seed."""
    kind = max(loader.mix, key=lambda each: loader.mix[each])
    settings = replace(loader, mix={kind: 1.0}, curriculum=(), seed=loader.seed + 1, batch=min(loader.batch, _HELD_SAMPLES))
    order = Order(catalog, settings)
    draws = order.draws(0)
    while True:  # an unreadable sample gives way to the next in order, as in training; the order raises when it runs out
        try:
            return Loader.read(catalog, settings, draws)
        except ReadError:
            draws = [order.redraw(draw) for draw in draws]


def _record(settings: TrainSettings, catalog: Catalog, method: TrainingMethod, resume: Checkpoint | None) -> dict[str, Any]:
    from pipeline.provenance import code_version, version

    return {
        "settings": to_plain(settings),
        "settings_digest": settings.digest(),
        "data": {"selection_digest": catalog.digest, "samples": len(catalog)},
        "base": to_plain(method.base.spec),
        "trained_parameters": sum(parameter.numel() for parameter in method.trained().values()),
        "resumed_from": {"checkpoint": str(resume.folder), "step": resume.step} if resume else None,
        "versions": {"parallax": version(), "code": code_version(), "torch": _torch_version()},
    }


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _say(settings: TrainSettings, main: bool, line: str) -> None:
    import sys

    if main and not settings.quiet:
        print(line, file=sys.stderr, flush=True)
