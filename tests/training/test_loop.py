"""What a step computes, and what a run leaves behind when it ends as planned, stops, or fails."""

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.exhausted import is_full
from pipeline.loader.batch import Batch
from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointError
from pipeline.training.errors import TrainingError
from pipeline.training.loop import run
from pipeline.training.randomness import Streams
from pipeline.training.settings import TrainSettings
from tests.training.toy import ToyLoader, ToyMethod, settings_for, toy_batch


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate remembers the precision for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def train(
    settings: TrainSettings, method: ToyMethod | None = None, resume: checkpoint.Checkpoint | None = None, **loader: int
) -> ToyMethod:
    method = method or ToyMethod()
    held = toy_batch(0, [0]) if settings.validate_every else None
    run(settings, method, lambda rank, world, step: ToyLoader(settings, rank, world, step, **loader), resume=resume, held=held)
    return method


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def reference(settings: TrainSettings) -> ToyMethod:
    """The same training written plainly: the whole batch at once, torch's own AdamW and clipping."""
    method = ToyMethod()
    parameters = list(method.trained().values())
    adamw = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    for step in range(settings.steps):
        batch = toy_batch(step, list(range(settings.loader.batch)))
        loss = method.model(**method.inputs(batch, Streams(settings.seed, step, batch.slots), torch.device("cpu")))["loss"]
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        adamw.step()
    return method


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 5])
def test_any_micro_batch_trains_as_the_whole_batch_does(tmp_path: Path, micro_batch: int | None) -> None:
    settings = settings_for(tmp_path / "out", batch=5, micro_batch=micro_batch)
    ours, plain = train(settings).trained(), reference(settings).trained()
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(plain["blocks.0.weight"], ToyMethod().trained()["blocks.0.weight"])


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_recomputation_changes_nothing_and_bf16_little(tmp_path: Path, options: dict) -> None:
    settings = settings_for(tmp_path / "out", **options)
    ours, plain = train(settings).trained(), reference(settings).trained()
    tolerance = 0.02 if "precision" in options else 0
    for name in plain:
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name], plain[name], rtol=tolerance, atol=tolerance)


def test_only_what_trains_changes_and_is_saved(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "out")
    before, after = ToyMethod(), train(settings)
    for i in range(3):
        assert torch.equal(before.model.blocks[i].frozen.weight, after.model.blocks[i].frozen.weight)
    saved = load_file(tmp_path / "out" / "weights" / "weights.safetensors")
    assert saved.keys() == after.trained().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in after.trained().items())


@pytest.mark.parametrize("first", [2, 4])
def test_a_resumed_run_is_bit_equal_to_one_that_never_stopped(tmp_path: Path, first: int) -> None:
    train(settings_for(tmp_path / "whole"))
    train(settings_for(tmp_path / "parts", steps=first))
    train(settings_for(tmp_path / "parts"), resume=checkpoint.latest(tmp_path / "parts"))
    for name in ("weights.safetensors", "optimizer.safetensors", "config.json"):
        whole, parts = (tmp_path / each / "checkpoints" / "step-00000006" / name for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name


def test_the_log_has_every_step_once_after_a_run_that_went_beyond_its_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(settings_for(output, steps=4))
    with (output / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 99}\n{"step": 6, "lo')  # a kill in the middle of a line
    train(settings_for(output), resume=checkpoint.latest(output))
    entries = log_of(output)
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert all({"loss", "lr", "kind", "grad_norm", "samples_per_s", "skipped", "loss_by_kind"} <= entry.keys() for entry in entries)
    assert entries[0]["loss_by_kind"].keys() == {"multiview_video", "multiview_images"}
    assert list((output / "tensorboard").iterdir())


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(settings_for(tmp_path, steps=9, keep=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000009"]


def test_a_skipped_sample_is_counted_and_named(tmp_path: Path) -> None:
    train(settings_for(tmp_path), skip=2)
    entries = log_of(tmp_path)
    assert {"step": 3, "skipped_samples": ["clips_broken: moov atom not found"]} in entries
    assert entries[-1]["skipped"] == 1


def test_validation_comes_at_its_steps_and_changes_no_weight(tmp_path: Path) -> None:
    ours = train(settings_for(tmp_path / "a", validate_every=3)).trained()
    plain = train(settings_for(tmp_path / "b")).trained()
    assert sorted(path.parent.name for path in (tmp_path / "a").glob("validation/*/seen.txt")) == ["step-00000003", "step-00000006"]
    assert [entry["step"] for entry in log_of(tmp_path / "a") if "validation" in entry] == [3, 6]
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_validation_that_does_not_fit_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hungry(ToyMethod):
        def validate(self, folder: Path, batch: Batch, seed: int) -> dict[str, float]:
            return {"size": float(torch.empty(2**60).numel())}

    ours = train(settings_for(tmp_path / "a", validate_every=3, quiet=False), Hungry()).trained()
    assert "step 3: out of memory in validation, training goes on; --validate-every 0" in capsys.readouterr().err
    assert [entry["step"] for entry in log_of(tmp_path / "a") if "validation_failed" in entry] == [3, 6]
    plain = train(settings_for(tmp_path / "b")).trained()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_sample_and_keeps_the_checkpoint(tmp_path: Path, poison: float) -> None:
    method = ToyMethod(poison=poison, bad_sample="sample-4-1")
    with pytest.raises(TrainingError, match=r"step 5 .*sample-4-1.* not changed.*up to step 4 "):
        train(settings_for(tmp_path, micro_batch=1), method)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and newest.step == 4
    saved = load_file(newest.folder / "weights.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in method.trained().items())


def test_out_of_memory_says_what_to_change(tmp_path: Path) -> None:
    train(settings_for(tmp_path, steps=2))
    with pytest.raises(TrainingError) as caught:
        train(settings_for(tmp_path), ToyMethod(hungry=True), checkpoint.latest(tmp_path))
    for words in ("out of memory in step 3", "--micro-batch 2 (now 4)", "--gradient-checkpointing", "--frames", "--size", "up to step 2 "):
        assert words in str(caught.value)


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    class FullDisk(ToyMethod):
        def save(self, folder: Path, tensors: dict) -> None:
            if int(load_step(tmp_path)) == 2:
                (folder / "weights.safetensors").write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().save(folder, tensors)

    with pytest.raises(TrainingError, match=r"no space for the checkpoint of step 4 .*--keep .*up to step 2 "):
        train(settings_for(tmp_path), FullDisk())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def load_step(output: Path) -> int:
    newest = checkpoint.latest(output)
    return newest.step if newest else 0


def test_a_limit_on_file_sizes_inside_the_tensor_writer_loses_no_checkpoint(tmp_path: Path) -> None:
    train(settings_for(tmp_path, steps=2))
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((newest.folder / "optimizer.safetensors").stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"no space for the checkpoint of step 4 .*up to step 2 "):
            train(settings_for(tmp_path), resume=newest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_checkpoint_and_the_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, number: signal.Signals) -> None:
    settings, handler = settings_for(tmp_path / "parts", checkpoint_every=100), signal.getsignal(number)

    class Signalling(ToyLoader):
        def __iter__(self) -> Iterator[list[Batch]]:
            for batches in super().__iter__():
                if self.state()["step"] == 3:
                    os.kill(os.getpid(), number)
                yield batches

    with pytest.raises(TrainingError, match=r"stopped after step 3; .*up to step 3 .*--resume latest"):
        run(settings, ToyMethod(), lambda rank, world, step: Signalling(settings, rank, world, step))
    assert signal.getsignal(number) is handler
    train(settings, resume=checkpoint.latest(tmp_path / "parts"))
    train(settings_for(tmp_path / "whole", checkpoint_every=100))
    for name in ("weights.safetensors", "optimizer.safetensors"):
        whole, parts = (tmp_path / each / "checkpoints" / "step-00000006" / name for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_a_checkpoint_of_other_data_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    train(settings_for(tmp_path, steps=2))
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    settings = settings_for(tmp_path)
    other = replace(settings, loader=replace(settings.loader, seed=4))
    with pytest.raises(CheckpointError, match="cannot go on with this data"):
        run(settings, ToyMethod(), lambda rank, world, step: ToyLoader(other, rank, world, step), resume=newest)
    data = (newest.folder / "optimizer.safetensors").read_bytes()
    (newest.folder / "optimizer.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors cannot be read .*another checkpoint"):
        train(settings, resume=newest)


def test_errors_that_lead_to_each_other_are_no_full_disk() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert not is_full(first)
    second.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert is_full(first)


def test_inputs_are_made_in_their_own_precision(tmp_path: Path) -> None:
    """Codecs stay in float32 where the model computes in bf16, as pipeline.encode_latents has them."""
    seen = []

    class Encoding(ToyMethod):
        def inputs(self, batch: Batch, streams: Streams, device: torch.device) -> dict:
            seen.append(torch.nn.functional.linear(torch.ones(1, 1), torch.tensor([[1 + 2**-12]])))
            return super().inputs(batch, streams, device)

    train(settings_for(tmp_path, steps=1, precision="bf16"), Encoding())
    assert [each.item() for each in seen] == [1 + 2**-12]
