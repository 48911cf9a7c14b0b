"""SuperPoint against transformers' own post-processing, and the files it comes in. Random weights of the true architecture."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402
from transformers import SuperPointConfig, SuperPointForKeypointDetection  # noqa: E402

from schemas.typed import RecipeError  # noqa: E402
from stages.perception.superpoint import SuperPoint, from_magic_leap, load_superpoint, sample, to_magic_leap  # noqa: E402
from stages.perception.weights import WeightsError, find  # noqa: E402

# The authors' file, layer by layer: outputs, inputs, side of the kernel.
_MAGIC_LEAP = {
    "conv1a": (64, 1, 3),
    "conv1b": (64, 64, 3),
    "conv2a": (64, 64, 3),
    "conv2b": (64, 64, 3),
    "conv3a": (128, 64, 3),
    "conv3b": (128, 128, 3),
    "conv4a": (128, 128, 3),
    "conv4b": (128, 128, 3),
    "convPa": (256, 128, 3),
    "convPb": (65, 256, 1),
    "convDa": (256, 128, 3),
    "convDb": (256, 256, 1),
}


def random_magic_leap(seed: int = 0) -> dict[str, "torch.Tensor"]:
    """A state as superpoint_v1.pth holds it, of weights that keep activations apart."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (out, into, side) in _MAGIC_LEAP.items():
        state[f"{layer}.weight"] = torch.randn(out, into, side, side, generator=generator) * (2 / (into * side * side)) ** 0.5
        state[f"{layer}.bias"] = torch.randn(out, generator=generator) * 0.1
    return state


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("superpoint") / "superpoint_v1.pth"
    torch.save(random_magic_leap(), path)
    return path


@pytest.fixture(scope="module")
def theirs(file: Path) -> "SuperPointForKeypointDetection":
    """transformers' whole model with the same weights, that keeps every keypoint."""
    model = SuperPointForKeypointDetection(SuperPointConfig(max_keypoints=-1))
    model.load_state_dict(from_magic_leap(torch.load(file, weights_only=True)))
    return model.eval()


def _reference(model: "SuperPointForKeypointDetection", luma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints [N,2] in pixels, scores and descriptors by transformers, which keeps some at the right and the lower border."""
    image = torch.from_numpy(luma).float()[None, None].expand(1, 3, -1, -1) / 255
    with torch.inference_mode():
        found = model(image)
    height, width = luma.shape
    xy = (found.keypoints[0] * torch.tensor([width, height])).round().numpy()
    return xy, found.scores[0].numpy(), found.descriptors[0].numpy()


@pytest.mark.parametrize(("height", "width"), [(96, 128), (90, 131)])
def test_keypoints_and_descriptors_are_transformers(file: Path, theirs: "SuperPointForKeypointDetection", height: int, width: int) -> None:
    luma = textured(height, width)
    xy, scores, descriptors = _reference(theirs, luma)
    mapped = np.array([width, height]) // 8 * 8  # what lies beyond the last whole cell has no scores
    inside = (xy < mapped - 4).all(1)
    assert 0 < inside.sum() < len(xy)  # transformers keeps some within 4 px of the right or lower side
    ours = SuperPoint(file, max_keypoints=10_000, device="cpu")(luma)
    assert (ours.xy.numpy() == xy[inside]).all()
    assert np.allclose(ours.scores, scores[inside], atol=1e-6)
    assert np.allclose(sample(ours.dense, ours.xy), descriptors[inside], atol=1e-5)
    assert ours.xy.min() >= 4


def test_the_best_keypoints_stay_best_first(file: Path) -> None:
    luma = textured(96, 128)
    every = SuperPoint(file, max_keypoints=10_000, device="cpu")(luma)
    few = SuperPoint(file, max_keypoints=20, device="cpu")(luma)
    order = np.lexsort((np.arange(len(every.scores)), -every.scores.numpy()))[:20]
    assert len(every.xy) > 40
    assert (few.xy.numpy() == every.xy.numpy()[order]).all()
    assert (np.diff(few.scores.numpy()) <= 0).all()


def test_keypoints_are_peaks_apart_from_each_other(file: Path) -> None:
    found = SuperPoint(file, device="cpu")(textured(96, 128)).xy.numpy()
    apart = np.abs(found[:, None] - found[None]).max(2) + 100 * np.eye(len(found))
    assert apart.min() > 4


def test_a_threshold_out_of_reach_leaves_nothing(file: Path) -> None:
    found = SuperPoint(file, threshold=1.0, device="cpu")(textured(64, 64))
    assert found.xy.shape == (0, 2) and found.scores.shape == (0,) and sample(found.dense, found.xy).shape == (0, 256)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 40), (15, 9)])
def test_small_images_give_few_or_none(file: Path, height: int, width: int) -> None:
    found = SuperPoint(file, device="cpu")(textured(height, width))
    assert found.dense.shape == (256, height // 8, width // 8)
    assert len(found.xy) == 0  # all within 4 px of a side


def test_descriptors_lie_where_superpoint_puts_them() -> None:
    places = torch.nn.functional.normalize(torch.randn(256, 3, 4, generator=torch.Generator().manual_seed(0)), dim=0)
    at = sample(places, torch.tensor([[3.5, 3.5], [31.0, 23.0], [3.5, 23.0]]))
    assert torch.allclose(at, torch.stack([places[:, 0, 0], places[:, 2, 3], places[:, 2, 0]]), atol=1e-5)
    between = sample(places, torch.tensor([[3.5 + 27.5 / 6, 3.5]]))[0]
    assert torch.allclose(between, torch.nn.functional.normalize(places[:, 0, 0] + places[:, 0, 1], dim=0), atol=1e-5)
    assert sample(places, torch.tensor([[500.0, 3.0]])).abs().max() == 0


def test_names_map_both_ways() -> None:
    state = random_magic_leap()
    theirs = SuperPointForKeypointDetection(SuperPointConfig()).state_dict()
    mapped = from_magic_leap(state)
    assert {name: tensor.shape for name, tensor in mapped.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    back = to_magic_leap(mapped)
    assert back.keys() == state.keys() and all(back[name] is state[name] for name in state)


def test_every_file_that_is_published_gives_the_same_network(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    save_file(from_magic_leap(state), tmp_path / "model.safetensors")
    luma = textured(64, 80)
    given = find("superpoint-v1", str(file), accept_noncommercial=True).path
    results = [SuperPoint(path, device="cpu")(luma) for path in (given, tmp_path, tmp_path / "model.safetensors")]
    assert len(results[0].xy) > 0
    for each in results[1:]:
        assert torch.equal(each.xy, results[0].xy) and torch.equal(each.dense, results[0].dense)


def test_the_licence_must_be_accepted(file: Path) -> None:
    with pytest.raises(WeightsError, match="--accept-noncommercial"):
        find("superpoint-v1", str(file))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = random_magic_leap()
    del state["convDb.bias"]
    state["conv1a.weight"] = torch.zeros(64, 3, 3, 3)
    state["convXa.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        load_superpoint(tmp_path / "wrong.pth")
    message = str(caught.value)
    assert "1 missing: descriptor_decoder.conv_descriptor_b.bias" in message
    assert "1 unexpected: convXa.weight" in message
    assert "[64, 3, 3, 3] instead of [64, 1, 3, 3]" in message
    with pytest.raises(WeightsError, match="weights fetch superpoint"):
        load_superpoint(tmp_path)


def test_devices_that_are_not_there_are_refused(file: Path) -> None:
    with pytest.raises(RecipeError, match="'gpu'"):
        SuperPoint(file, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="0 GPUs"):
            SuperPoint(file, device="cuda:1")
