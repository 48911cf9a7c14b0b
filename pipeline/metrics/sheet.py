"""A contact sheet: what was generated beside what is true, to look at."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_CELL = 192  # pixels of a cell's longer side, at least; pictures are enlarged by whole numbers, never shrunk
_GAP, _TEXT = 6, 20
_BACKGROUND, _INK = 245, 30


def contact_sheet(rows: Sequence[Sequence[Picture]], columns: Sequence[str], names: Sequence[str]) -> bytes:
    """PNG of pictures [H,W,3] RGB, all of one size: a row for each of `names`, a column for each of `columns`.

    Raises ValueError where the numbers or sizes differ.
    """
    shapes = {picture.shape for row in rows for picture in row}
    if len(shapes) != 1 or any(len(row) != len(columns) for row in rows) or len(rows) != len(names):
        raise ValueError(f"{len(rows)} rows for {len(names)} names, {len(columns)} columns, pictures of {sorted(shapes)}; all must agree")
    height, width, _ = shapes.pop()
    scale = max(1, round(_CELL / max(height, width)))
    cell_height, cell_width = height * scale, width * scale
    sheet = np.full((_TEXT + len(rows) * (_TEXT + cell_height + _GAP), _GAP + len(columns) * (cell_width + _GAP), 3), _BACKGROUND, np.uint8)
    for j, title in enumerate(columns):
        _write(sheet, title, _GAP + j * (cell_width + _GAP), 14, cell_width)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        top = _TEXT + i * (_TEXT + cell_height + _GAP)
        _write(sheet, name, _GAP, top + 14, sheet.shape[1])
        for j, picture in enumerate(row):
            left = _GAP + j * (cell_width + _GAP)
            large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top + _TEXT : top + _TEXT + cell_height, left : left + cell_width] = large
    done, data = cv2.imencode(".png", sheet[..., ::-1])
    if not done:
        raise ValueError("the contact sheet could not be encoded as PNG")
    return data.tobytes()


def _write(sheet: Picture, text: str, x: int, y: int, width: int) -> None:
    plain = text.encode("ascii", "replace").decode()[: max(1, width // 7)]
    cv2.putText(sheet, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (_INK, _INK, _INK), 1, cv2.LINE_AA)
