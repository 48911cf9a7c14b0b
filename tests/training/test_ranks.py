"""Two processes train what one does: copies of the model (DDP) and shards of it (FSDP)."""

import contextlib
import multiprocessing
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.ranks import work
from tests.training.test_loop import fresh_accelerate, train  # noqa: F401
from tests.training.toy import settings_for

TRAININGS = {
    "copies": {"batch": 5, "micro_batch": 2},
    "shards": {"batch": 4, "fsdp": True, "gradient_checkpointing": True, "validate_every": 1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3 * len(TRAININGS))]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    multiprocessing.set_forkserver_preload(
        ["accelerate", "torch._dynamo", "torch.distributed.tensor", "tests.training.toy", "pipeline.training.loop"]
    )  # imported once, not twice
    trainings = {str(folder / name): options for name, options in TRAININGS.items()}
    torch.multiprocessing.start_processes(work, (2, ports, trainings), nprocs=2, start_method="forkserver")
    return folder


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does_and_resume_bit_equal(trained: Path, tmp_path: Path, name: str) -> None:
    train(settings_for(tmp_path, steps=4, batch=TRAININGS[name]["batch"]))
    for file in ("weights.safetensors", "optimizer.safetensors"):
        whole, parts = (trained / name / each / "checkpoints" / "step-00000004" / file for each in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
        ours, alone = load_file(whole), load_file(tmp_path / "checkpoints" / "step-00000004" / file)
        assert ours.keys() == alone.keys()
        for key in alone:
            torch.testing.assert_close(ours[key], alone[key], rtol=1e-4, atol=1e-6)


def test_a_sharded_model_is_whole_while_it_validates(trained: Path) -> None:
    assert len([*(trained / "shards" / "whole").glob("validation/*/seen.txt")]) == 4
