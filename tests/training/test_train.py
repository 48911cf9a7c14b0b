"""The command, on the tiny base and curated shards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.train import main
from tests.training.test_loop import fresh_accelerate  # noqa: F401

Command = Callable[..., int]
MIX = "--mix=multiview_video=0.5,singleview_video=0.5"


@pytest.fixture
def train(shards: Path, tmp_path: Path) -> Command:
    """Runs the command with options that fit the shards; those given later win."""

    def run(*options: str, output: str = "out", method: str = "syncammaster") -> int:
        fitting = ["--base=tiny", "--frames=3", "--steps=4", "--batch=2", MIX, "--curriculum=none", "--checkpoint-every=2"]
        fitting += ["--precision=no", "--device=cpu", "--workers=0", "--validate-every=0", "--log-every=1"]
        return main([method, f"--data={shards}", f"--output={tmp_path / output}", *fitting, *options])

    return run


def test_trains_and_resumes_bit_equal_with_other_workers(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--validate-every=4", output="whole") == 0
    assert f"weights: {tmp_path / 'whole' / 'weights'}" in capsys.readouterr().out
    assert train("--steps=2", "--resume=latest", output="parts") == 0  # nothing there yet: a start
    assert train("--workers=1", "--resume=latest", output="parts") == 0
    for name in ("weights.safetensors", "optimizer.safetensors"):
        whole, parts = (tmp_path / each / "checkpoints" / "step-00000004" / name for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), name
    assert (tmp_path / "parts" / "weights" / "config.json").is_file()
    assert list((tmp_path / "whole" / "validation" / "step-00000004").iterdir())
    entries = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    record = json.loads((tmp_path / "parts" / "train.json").read_text())
    assert record["settings"]["loader"]["batch"] == 2 and record["resumed_from"]["step"] == 2


def test_a_resumed_run_must_ask_for_the_same(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps=2") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for options, words in (
        (("--resume=latest", "--lr=0.5"), "lr was 0.0001, is 0.5"),
        (("--resume=latest", "--batch=4", "--text-dropout=0.3"), "loader.batch was 2, is 4; options.text_dropout was 0.1, is 0.3"),
        ((), "go on with --resume latest, or name another folder"),
        (("--resume=nowhere",), "there is no state.json"),
    ):
        assert train(*options) == 2
        assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert train("--resume=latest", "--steps=3", "--micro-batch=1", "--keep=1", "--gradient-checkpointing") == 0


def test_a_run_starts_from_the_weights_of_another(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps=1", "--precision=bf16", output="first") == 0
    init = f"--init-weights={tmp_path / 'first' / 'weights'}"
    assert train("--steps=1", "--lr=1e-12", "--weight-decay=0", "--novel-view=0.9", "--precision=bf16", init, output="second") == 0
    first, second = (load_file(tmp_path / each / "weights" / "weights.safetensors") for each in ("first", "second"))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-9)
    assert train("--resume=latest", "--lr=1e-12", "--weight-decay=0", "--novel-view=0.9", "--precision=bf16", output="second") == 2
    assert "init_weights_sha256 was" in capsys.readouterr().err
    assert train(init, "--camera=plucker", output="third") == 2
    assert train(f"--init-weights={tmp_path / 'first'}", output="third") == 2
    said = capsys.readouterr().err
    assert "were trained with camera 'extrinsics'" in said and f"give {tmp_path / 'first' / 'weights'}" in said
    assert not (tmp_path / "third").exists()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    train: Command, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--dry-run", "--base=wan2.1-1.3b", "--size=64x64", "--frames=5", MIX) == 0
    said = capsys.readouterr().out
    assert "trained: 354,954,240 parameters" in said  # the release's count, see the specification
    assert "memory of one device, estimated:" in said and "multiview_video" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_what_is_not_loaded_and_the_memory_of_the_host(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    large = ("--size=384x672", "--frames=5", "--batch=4000", "--workers=4", "--mix=multiview_video=1")
    assert train("--dry-run", "--base=wan2.1-1.3b", "--precision=bf16", *large) == 0
    said = capsys.readouterr().out
    assert "text_encoder: 5,680,910,336 parameters" in said  # of google/umt5-xxl's encoder
    assert "codec: 126,892,531 parameters" in said  # of Wan2.1's
    # 4000 samples x 2 views x 5 frames x 384 x 672 x 3 bytes; more than 1 GB, so one step ahead and one in use
    assert "4 workers x 2 steps x 30.97 GB" in said and "warning: batches do not fit" in said
    assert "--micro-batch 1 --gradient-checkpointing: about" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views=9"], "views"),
        (["--mix=multiview_images=1"], "multiview_images"),
        (["--mix=multiview_video=0.5"], "add up to 0.5"),
        (["--base=tinny"], "did you mean 'tiny'"),
        (["--size=60x64"], "try 64x64"),
        (["--frames=0"], "at least 1"),
        (["--split=val"], "val"),
        (["--selection=mine"], "mine"),
        (["--payload=latents"], "encode_latents"),
        (["--fsdp"], "torchrun"),
        (["--micro-batch=3"], "more than --batch 2"),
        (["--warmup=4"], "no step"),
        (["--precision=fp16"], "needs a CUDA device"),
        (["--output=" + "long" * 100], "name another folder"),
    ],
)
def test_wrong_usage_says_what_to_change_and_writes_nothing(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert train(*options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train: ") and words in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["syncammastr"], "did you mean 'syncammaster'"),
        (["--steps", "3"], "the method comes first"),
        (["syncammaster", "--size", "64"], "height x width"),
        (["syncammaster", "--curriculum", "0:60"], "STEP:LOW-HIGH"),
        (["syncammaster"], "--data"),
    ],
)
def test_a_command_line_that_cannot_be_read(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_help_names_every_option_of_the_method_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["syncammaster", "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for words in ("--novel-view", "height x width", "--resume latest|PATH", "exit status", "examples:"):
        assert words in said


@pytest.mark.timeout(900)  # starting Ray's workers takes minutes on a busy machine
def test_on_a_ray_worker_the_same_weights(train: Command, tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps=2", "--launcher=ray", "--ray-workers=1", output="ray") == 0
    torch.set_num_threads(1)  # as many as a Ray worker of one CPU has
    assert train("--steps=2", output="here") == 0
    ray, here = (tmp_path / each / "weights" / "weights.safetensors" for each in ("ray", "here"))
    assert ray.read_bytes() == here.read_bytes()
    capsys.readouterr()
    assert train("--steps=3", "--launcher=ray", "--resume=latest", "--batch=1", "--lr=0.3", output="ray") == 2
    assert "loader.batch was 2, is 1" in capsys.readouterr().err
