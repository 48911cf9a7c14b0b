"""Checkpoint files: what they may hold, and what is said of those that do not fit."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.perception.state import load_strict, read_state
from stages.perception.weights import WeightsError


class Touch:
    """Unpickling it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_its_code_not_run(tmp_path, zipped):
    marker, file = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"weight": torch.zeros(1), "more": Touch(marker)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"hostile\.pth is no checkpoint that can be read safely"):
        read_state(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the file would have run code, else this test shows nothing"


def test_a_plain_pickle_is_refused(tmp_path):
    file = tmp_path / "plain.pth"
    file.write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError, match="safely"):
        read_state(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["pth", "tar", "safetensors"])
def test_tensors_come_back_as_they_were(tmp_path, suffix):
    state = {"a.weight": torch.randn(3, 2), "b": torch.arange(4), "half": torch.ones(2, dtype=torch.bfloat16)}
    file = tmp_path / f"state.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    found = read_state(file)
    assert found.keys() == state.keys()
    assert all(found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state)


def test_types_that_an_official_file_needs_are_let_in_by_name_only(tmp_path):
    """Training scripts save their options beside the tensors."""
    file = tmp_path / "with_options.pth"
    torch.save({"model": {"weight": torch.ones(2)}, "args": argparse.Namespace(lr=1e-4)}, file)
    with pytest.raises(WeightsError, match="Namespace"):
        read_state(file)
    assert read_state(file, harmless=(argparse.Namespace,))["model"]["weight"].tolist() == [1, 1]
    with pytest.raises(WeightsError, match="Namespace"):
        read_state(file)  # what one file was allowed is not allowed to the next


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", ["", "half", "text", "missing"])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    file = tmp_path / f"broken.{suffix}"
    if content != "missing":
        state = {"weight": torch.randn(64)}
        save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
        whole = file.read_bytes()
        file.write_bytes({"": b"", "half": whole[: len(whole) // 2], "text": b"<html>404</html>"}[content])
    with pytest.raises(WeightsError, match=rf"broken\.{suffix} is no checkpoint"):
        read_state(file)


def test_something_else_than_a_mapping_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read_state(tmp_path / "list.pth")


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_what_fits_is_loaded_whole():
    state = {name: torch.randn_like(tensor.float()).to(tensor.dtype) for name, tensor in model().state_dict().items()}
    loaded = model()
    load_strict(loaded, state, "a.pth")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_what_does_not_fit_is_named_by_tensor_and_the_model_left_alone():
    state = model().state_dict()
    state["head.weight"] = state.pop("2.weight")
    state["0.weight"] = torch.zeros(4, 5)
    target = model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError) as raised:
        load_strict(target, state, "a.pth")
    assert str(raised.value) == (
        "a.pth does not fit Sequential: 1 missing: 2.weight; 1 unexpected: head.weight; "
        "1 of another shape: 0.weight [4, 5] instead of [4, 3]"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_many_are_counted_and_a_few_named():
    with pytest.raises(
        WeightsError, match=r"does not fit Sequential: 9 missing: 0\.bias, 0\.weight, 1\.bias, .*, \.\.\.; 1 unexpected: x$"
    ):
        load_strict(model(), {"x": torch.ones(1)}, "a.pth")


def test_what_is_no_tensor_is_said():
    with pytest.raises(WeightsError, match=r"0\.weight a str instead of \[4, 3\]"):
        load_strict(model(), {**model().state_dict(), "0.weight": "no"}, "a.pth")
