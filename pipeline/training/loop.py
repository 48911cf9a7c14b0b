"""The training loop. It knows batches, losses and parameters by name, and nothing of views, cameras or bases.

Step s (0, 1, ...) is a function of the weights, the settings and s: the loader's order, the noise (keyed by seed, step and
slot) and the learning rate remember nothing. So a resumed run continues bit-equal on the CPU with any number of workers;
another micro-batch size or number of ranks gives the same sums in another order of addition, equal up to rounding.
"""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.exhausted import is_full, is_out_of_memory
from pipeline.loader.batch import Batch
from pipeline.stop import stop_on_signals
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.distribute import gathered, make_accelerator, place, raise_precision, set_modes, sharded_like, whole
from pipeline.training.errors import TrainingError, out_of_memory, safe
from pipeline.training.log import TrainLog
from pipeline.training.method import TrainingMethod
from pipeline.training.randomness import Streams
from pipeline.training.settings import TrainSettings

VALIDATION = "validation"


class Steps(Protocol):
    """What the loop needs of `pipeline.loader.loader.Loader`."""

    def __iter__(self) -> Iterator[list[Batch]]: ...

    def state(self) -> dict[str, int]: ...


LoaderFactory = Callable[[int, int, int], Steps]  # (rank, world, step), micro-batches as the settings say


def run(
    settings: TrainSettings,
    method: TrainingMethod,
    make_loader: LoaderFactory,
    *,
    resume: Checkpoint | None = None,
    held: Batch | None = None,
) -> int:
    """Train up to `settings.steps` and leave a checkpoint and DIR/weights; returns the number of steps done.

    held: the batch that validation videos are made for. Raises TrainingError (with advice; checkpoints are safe), RecipeError
    for settings that the devices cannot run, CheckpointError for a checkpoint that cannot be taken up.
    """
    return Trainer(settings, method, make_loader, resume, held).run()


@dataclass
class StepResult:
    """Of one step over all ranks. scalars: the loss and whatever else the model returned, means over the global batch."""

    kind: str
    scalars: dict[str, float]
    grad_norm: float
    skipped: list[str]
    stopped: bool


class Trainer:
    def __init__(
        self, settings: TrainSettings, method: TrainingMethod, make_loader: LoaderFactory, resume: Checkpoint | None, held: Batch | None
    ) -> None:
        self.settings, self.method, self.held = settings, method, held
        self.output = Path(settings.output)
        self.accelerator = make_accelerator(settings)
        self.main: bool = self.accelerator.is_main_process
        self.done = resume.step if resume else 0
        self.saved = self.done if resume else -1
        self.skipped = 0
        self._prepare(resume)
        self.loader = make_loader(self.accelerator.process_index, self.accelerator.num_processes, self.done)
        if resume:
            self._check_order(resume)

    def _prepare(self, resume: Checkpoint | None) -> None:
        trained = self.method.trained()
        training = {id(parameter) for parameter in self.method.model.parameters() if parameter.requires_grad}
        if {id(parameter) for parameter in trained.values()} != training or not training:
            raise RuntimeError(f"{self.method.name}: trained() and the model's parameters with requires_grad are not the same")
        raise_precision(trained.values())
        set_modes(self.method)
        if resume:
            try:
                self.method.load(resume.folder)
            except ValueError as error:
                raise CheckpointError(f"{resume.folder}: {error}") from None
        try:
            self.model = place(self.method, self.settings, self.accelerator)
        except Exception as error:
            raise self._explained(error, len(self.method.trained())) from error
        self.parameters = self.method.trained()
        adamw = torch.optim.AdamW(self.parameters.values(), lr=self.settings.lr, weight_decay=self.settings.weight_decay)
        self.optimizer = self.accelerator.prepare_optimizer(adamw)
        if resume:
            self._load_optimizer(resume)

    def run(self) -> int:
        settings = self.settings
        if self.main:
            self.output.mkdir(parents=True, exist_ok=True)
            checkpoint.sweep(self.output)
        self.log = TrainLog(self.output if self.main else None, self.done, settings.steps, settings.quiet)
        try:
            with stop_on_signals("stopping after this step, with a checkpoint") as self.stop:
                self._train()
        finally:
            self.log.close()
        self.accelerator.end_training()
        return self.done

    def _train(self) -> None:
        settings, meter = self.settings, Meter()
        steps = iter(self.loader)
        while self.done < settings.steps:
            waiting = time.monotonic()
            batches = next(steps)
            meter.waited += time.monotonic() - waiting
            try:
                result = self._step(batches)
            except Exception as error:
                raise self._explained(error, sum(len(batch.slots) for batch in batches)) from error
            self.done += 1
            self._report(result, meter)
            if result.stopped or self.done == settings.steps or self.done % settings.checkpoint_every == 0:
                self._checkpoint()
            if result.stopped and self.done < settings.steps:
                raise TrainingError(f"stopped after step {self.done}; {safe(self.output)}")
            if self.held is not None and settings.validate_every and self.done % settings.validate_every == 0:
                self._validate(self.held)

    def _step(self, batches: list[Batch]) -> StepResult:
        """Forward and backward of this rank's share, then one update: the gradient is the mean over the global batch."""
        settings, accelerator, step = self.settings, self.accelerator, self.done
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        totals: dict[str, Tensor] = {}
        losses = []
        for batch in batches:
            share = len(batch.slots) / settings.loader.batch
            with torch.no_grad():  # no autocast: codec and text encoder compute in their own precision, as in encode_latents
                inputs = self.method.inputs(batch, Streams(settings.seed, step, batch.slots), accelerator.device)
            with self._accumulating(last=batch is batches[-1]):
                with accelerator.autocast():
                    outputs = self.model(**inputs)
                # Ranks' gradients are averaged; the sum over the global batch is what we want of them.
                accelerator.backward(outputs["loss"] * (share * accelerator.num_processes))
            losses.append(outputs["loss"].detach())
            for name, value in outputs.items():
                totals[name] = totals.get(name, 0) + torch.as_tensor(value).detach().to(accelerator.device).double() * share
        skipped = [line for batch in batches for line in batch.skipped]
        counts = [
            torch.tensor(float(value), dtype=torch.float64, device=accelerator.device) for value in (len(skipped), self.stop.is_set())
        ]
        names = sorted(totals)
        summed = accelerator.reduce(torch.stack([*(totals[name] for name in names), *counts]), "sum").tolist()
        scalars = dict(zip(names, summed[: len(names)], strict=True))
        if not math.isfinite(scalars["loss"]):
            self._refuse_loss(batches, losses, scalars["loss"])
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if summed[-2]:
            skipped = self._gathered(skipped)
        return StepResult(batches[0].kind, scalars, norm, skipped, bool(summed[-1]))

    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """DDP sums over ranks once a step. FSDP does so in every micro-batch: whole gradients would cost what it saves."""
        if last or self.settings.fsdp:
            return nullcontext()
        return self.accelerator.no_sync(self.model)

    def _clip(self) -> float:
        """Clip the gradient and return its norm before. Raises TrainingError where it is not finite (fp16 scaling apart)."""
        limit = self.settings.max_grad_norm or math.inf
        norm = float(whole(self.accelerator.clip_grad_norm_(self.parameters.values(), limit)))
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            self.optimizer.zero_grad()
            raise TrainingError(
                f"the gradient of step {self.done + 1} is {norm} though the loss is finite; the weights were not changed. "
                f"Try a lower --lr or --precision bf16 (now {self.settings.precision}); {safe(self.output)}"
            )
        return norm

    def _refuse_loss(self, batches: list[Batch], losses: list[Tensor], loss: float) -> None:
        guilty = [
            sample for batch, each in zip(batches, losses, strict=True) if not torch.isfinite(each).all() for sample in batch.sample_ids
        ]
        names = self._gathered(guilty)
        raise TrainingError(
            f"the loss of step {self.done + 1} is {loss}, in the micro-batch of {', '.join(names)}; the weights were not changed. "
            f"Look at these samples, or try a lower --lr or --precision no (now {self.settings.precision}); {safe(self.output)}"
        )

    def _gathered(self, lines: list[str]) -> list[str]:
        from accelerate.utils import gather_object

        return list(gather_object(lines))

    def _report(self, result: StepResult, meter: "Meter") -> None:
        self.skipped += len(result.skipped)
        meter.add(result, self.settings.loader.batch)
        self.log.advance(result.scalars["loss"])
        if result.skipped:
            self.log.skipped(self.done, result.skipped)
        if self.done % self.settings.log_every == 0 or self.done == self.settings.steps:
            self.log.entry(self.done, {**meter.entry(result), "lr": self.settings.lr_at(self.done - 1), "skipped": self.skipped})

    def _checkpoint(self) -> None:
        """All ranks gather, the first one writes. Raises TrainingError where there is no room for it."""
        if self.saved == self.done:
            return
        tensors = self._on_first(self.parameters)
        optimizer = {name: self._on_first(dict(self.optimizer.optimizer.state[parameter])) for name, parameter in self.parameters.items()}
        if self.main:
            try:
                checkpoint.write(
                    self.output, self.done, lambda folder: self.method.save(folder, tensors), optimizer, self._state(), self.settings.keep
                )
            except Exception as error:
                if not is_full(error):
                    raise
                raise self._no_space(checkpoint.size(tensors, optimizer), error) from error
        self.accelerator.wait_for_everyone()
        self.saved = self.done

    def _on_first(self, tensors: dict[str, Any]) -> dict[str, Tensor]:
        made = {}
        for name, tensor in tensors.items():
            value = whole(tensor.detach())
            if self.main:
                made[name] = value.cpu().contiguous()
        return made

    def _state(self) -> dict[str, Any]:
        from pipeline.provenance import code_version

        scaler = self.accelerator.scaler
        return {
            "loader": self.loader.state(),
            "seed": self.settings.seed,
            "settings": self.settings.deciding(),
            "settings_digest": self.settings.digest(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "versions": {"torch": torch.__version__, "code": code_version()},
        }

    def _no_space(self, needs: int, error: Exception) -> TrainingError:
        import shutil

        free = shutil.disk_usage(self.output).free
        return TrainingError(
            f"no space for the checkpoint of step {self.done} in {self.output} (needs {needs / 1e9:.3f} GB, free {free / 1e9:.3f} GB): "
            f"free some, or keep fewer with --keep (now {self.settings.keep}); {safe(self.output)} ({error})"
        )

    def _load_optimizer(self, resume: Checkpoint) -> None:
        saved = resume.optimizer()
        if saved and {*saved} != {*self.parameters}:
            odd = sorted({*saved} ^ {*self.parameters})
            raise CheckpointError(f"{resume.folder}: its optimizer is of other parameters ({', '.join(odd[:4])}, {len(odd)} in all)")
        for name, parameter in self.parameters.items() if saved else ():  # empty where fp16 scaling skipped every step so far
            self.optimizer.optimizer.state[parameter] = {
                # AdamW counts steps on the CPU, wherever the parameter lies.
                entry: tensor if entry == "step" else sharded_like(tensor, parameter)
                for entry, tensor in saved[name].items()
            }
        scaler = resume.state().get("scaler")
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)

    def _check_order(self, resume: Checkpoint) -> None:
        seen = self._gathered([f"step {resume.step}"])
        if len({*seen}) > 1:
            raise CheckpointError(f"the processes found different checkpoints ({', '.join(seen)}); --output must be shared by all nodes")
        then, now = resume.state()["loader"], self.loader.state()
        if then != now:
            what = "the chosen samples are not those" if then.get("selection") != now["selection"] else f"the order is not that ({then})"
            raise CheckpointError(
                f"{resume.folder} cannot go on with this data: {what} it was trained on. Give the --data, --selection and --split of "
                f"that run, or start a new run in another --output"
            )

    def _validate(self, batch: Batch) -> None:
        """The first rank writes the videos. Sharded models need every rank to compute, so the others write where none looks."""
        name = f"step-{self.done:08d}"
        if not (self.main or self.settings.fsdp):
            return
        with tempfile.TemporaryDirectory() as nowhere, torch.no_grad(), self.accelerator.autocast(), gathered(self.model):
            folder = self.output / VALIDATION / name if self.main else Path(nowhere)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                scalars = self.method.validate(folder, batch, self.settings.seed + 1)
            except Exception as error:
                # Ranks of a sharded model compute together: one cannot give up alone.
                if not is_out_of_memory(error) or self.settings.fsdp:
                    raise self._explained(error, len(batch.slots)) from error
                self._without_validation(error)
                return
        if scalars:
            self.log.entry(self.done, {"validation": scalars})

    def _without_validation(self, error: Exception) -> None:
        """Videos are not worth the run: it goes on."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.log.entry(self.done, {"validation_failed": reason})
        self.log.note(f"step {self.done}: out of memory in validation, training goes on; --validate-every 0 leaves it out ({reason})")
        error.__traceback__ = None  # its frames hold what was allocated
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _explained(self, error: Exception, share: int) -> Exception:
        if is_out_of_memory(error):
            return out_of_memory(self.settings, share, self.done, error, self.method, self.accelerator.num_processes)
        if is_full(error):
            return self._no_space(0, error)
        return error


class Meter:
    """Means and rates since the last entry of the log."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._since, self.waited, self._samples = time.monotonic(), 0.0, 0
        self._scalars: dict[str, list[float]] = defaultdict(list)
        self._by_kind: dict[str, list[float]] = defaultdict(list)

    def add(self, result: StepResult, batch: int) -> None:
        self._samples += batch
        for name, value in result.scalars.items():
            self._scalars[name].append(value)
        self._by_kind[result.kind].append(result.scalars["loss"])

    def entry(self, result: StepResult) -> dict[str, Any]:
        seconds = time.monotonic() - self._since
        made = {
            **{name: sum(values) / len(values) for name, values in self._scalars.items()},
            "loss_by_kind": {kind: sum(values) / len(values) for kind, values in sorted(self._by_kind.items())},
            "kind": result.kind,
            "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
            "samples_per_s": self._samples / max(seconds, 1e-9),
            "seconds": seconds,
            "seconds_waiting_for_data": self.waited,
        }
        self._clear()
        return made
