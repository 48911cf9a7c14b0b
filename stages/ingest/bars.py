"""Dark bars at the borders of a video: how to tell a padded picture from a cut one. Runs inside the media sandbox."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DARK = 16.0  # mean luma of a row or column, of 255: bars are black up to the codec's noise


def dark_borders(frames: Iterator[NDArray[np.uint8]]) -> list[int]:
    """[left, top, right, bottom]: how many columns and rows from each side are dark in every frame ([H,W] luma)."""
    rows: NDArray[np.float64] | None = None
    columns: NDArray[np.float64] | None = None
    for frame in frames:
        across, down = frame.mean(1), frame.mean(0)
        rows = across if rows is None else np.maximum(rows, across)
        columns = down if columns is None else np.maximum(columns, down)
    if rows is None or columns is None:
        return [0, 0, 0, 0]
    return [_leading(columns), _leading(rows), _leading(columns[::-1]), _leading(rows[::-1])]


def _leading(brightness: NDArray[np.float64]) -> int:
    lit = np.flatnonzero(brightness > DARK)
    return int(lit[0]) if len(lit) else len(brightness)
