"""GlueStick's files and the authors' own package: what loads, what is refused, and that both find the same."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from schemas.typed import RecipeError  # noqa: E402
from stages.perception.gluestick import GlueStick, load_gluestick  # noqa: E402
from stages.perception.gluestick_net import GlueStickNet  # noqa: E402
from stages.perception.weights import WeightsError  # noqa: E402
from stages.perception.wireframe import detect  # noqa: E402
from tests.perception.gluestick_files import boxes, official, random_net, write_checkpoint, write_superpoint  # noqa: E402


@pytest.fixture(scope="module")
def superpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_superpoint(tmp_path_factory.mktemp("superpoint"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, superpoint: Path) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("gluestick"), superpoint)


@pytest.mark.parametrize("prefix", ["matcher.", "module.matcher.", "matcher.module."])
def test_the_files_of_parallel_training_load_too(tmp_path: Path, prefix: str) -> None:
    net = random_net()
    torch.save(official(net, prefix), tmp_path / "checkpoint.tar")
    loaded = load_gluestick(tmp_path / "checkpoint.tar").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def _without_model(file: dict[str, Any]) -> dict[str, Any]:
    return file["model"]


def _spoiled(file: dict[str, Any]) -> dict[str, Any]:
    del file["model"]["matcher.bin_score"], file["model"]["matcher.gnn.layers.3.update.attn.merge.bias"]
    file["model"]["matcher.gnn.layers.18.update.attn.merge.bias"] = torch.zeros(256)
    file["model"]["matcher.final_proj.bias"] = torch.zeros(128)
    return file


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (_without_model, ["'model'", "pipeline.weights fetch gluestick"]),
        (
            _spoiled,
            [
                "2 missing: bin_score, gnn.layers.3.update.attn.merge.bias",
                "1 unexpected: gnn.layers.18.update.attn.merge.bias",
                "1 of another shape: final_proj.bias [128] instead of [256]",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]], messages: list[str]) -> None:
    torch.save(spoil(official(GlueStickNet())), tmp_path / "wrong.tar")
    with pytest.raises(WeightsError) as caught:
        load_gluestick(tmp_path / "wrong.tar")
    assert all(message in str(caught.value) for message in messages), caught.value


# ---- the authors' package


def _upstream_installed() -> bool:
    found = importlib.util.find_spec("gluestick")
    return found is not None and any((Path(each) / "models").is_dir() for each in found.submodule_search_locations or [])


def test_another_package_of_that_name_is_told_apart(
    checkpoint: Path, superpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gluestick").mkdir()
    (tmp_path / "gluestick" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delitem(sys.modules, "gluestick", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="ETL"):
        GlueStick(checkpoint, superpoint, device="cpu", upstream=True)


@pytest.mark.skipif(_upstream_installed(), reason="the authors' gluestick is installed")
def test_upstream_that_is_not_installed_is_refused(checkpoint: Path, superpoint: Path) -> None:
    with pytest.raises(RecipeError, match="cvg/GlueStick"):
        GlueStick(checkpoint, superpoint, device="cpu", upstream=True)


@pytest.mark.skipif(not _upstream_installed(), reason="the authors' gluestick is not installed")
def test_upstream_finds_the_same(checkpoint: Path, superpoint: Path) -> None:
    matcher = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=60, device="cpu")
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    lines = (detect(image, 40).lines, detect(moved, 40).lines)
    theirs = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=60, device="cpu", upstream=True)
    found, wanted = matcher.match(image, moved, lines), theirs.match(image, moved, lines)
    assert len(wanted.first) >= 4
    assert np.allclose(found.first, wanted.first, atol=1e-3) and np.allclose(found.second, wanted.second, atol=1e-3)
    assert np.allclose(found.scores, wanted.scores, atol=1e-3)
    assert len(theirs.match(image, moved).first) > 0  # with its own segments
    assert len(theirs.match(image, np.full((120, 160, 3), 128, np.uint8)).first) == 0
