"""Functions that the tests run inside the sandbox."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from stages.media import requests
from tests.media.torture import number_of


def numbers(frames: Iterator[np.ndarray]) -> list[int]:
    """The burned-in number of every frame."""
    return [number_of(frame) for frame in frames]


def shapes(frames: Iterator[np.ndarray], factor: int = 1) -> list[list[int]]:
    """The shape of every frame, times a factor."""
    return [[size * factor for size in frame.shape] for frame in frames]


def pixels(frames: Iterator[np.ndarray]) -> list[np.ndarray]:
    """The frames themselves."""
    return list(frames)


def first_mean(frames: Iterator[np.ndarray]) -> float:
    """Looks at the first frame only."""
    return float(next(frames).mean())


def boom(frames: Iterator[np.ndarray]) -> None:
    """A bug."""
    raise KeyError("no such thing")


def slow_down(seconds: float) -> None:
    """From now on a frame of a stream takes so long in this child, wanted or on the way."""
    whole = requests._at_sizes

    def slowly(*arguments: Any) -> Iterator[list[np.ndarray] | None]:
        for pictures in whole(*arguments):
            time.sleep(seconds)
            yield pictures

    requests._at_sizes = slowly  # type: ignore[assignment]
