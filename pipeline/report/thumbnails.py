"""One picture per sample: its views, or the first, middle and last frame, side by side in a small JPEG."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.report import overlays
from pipeline.report.footage import Footage, FootageAway, FootageGone, FootageView
from pipeline.report.found import Arrays
from schemas.frames import FrameIndex
from schemas.verdict import PROVISIONAL, CandidateError
from stages.media import SandboxError

MOST_VIEWS = 6
STRIP_WIDTH = 600  # pixels, twice what a tile shows on a plain screen
TALLEST = 180  # pixels
GAP = 4
QUALITY = 74
BACKGROUND = (30, 34, 40)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG, or the reason why there is none. passing: another time there may be one."""

    jpeg: bytes | None
    width: int = 0
    height: int = 0
    missing: str = ""
    passing: bool = False

    def data_uri(self) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg or b"").decode()


def make_thumbnail(footage: Footage, row: Mapping[str, Any], member: str = "", arrays: Arrays | None = None) -> Thumbnail:
    """The row's picture. Never raises for what is wrong with the footage: that becomes the tile's text.

    member, arrays: what a stage found, to be drawn over its first view.
    """

    def strip() -> NDArray[np.uint8]:
        drawn = _overlaid(footage, row, member, arrays) if arrays is not None else []
        return compose(drawn or _pictures(footage, row))

    return _thumbnail(strip)


def _thumbnail(make: Callable[[], NDArray[np.uint8]]) -> Thumbnail:
    """The JPEG of what `make` gives, or why it gives nothing."""
    try:
        strip = make()
    except FootageGone as gone:
        return Thumbnail(None, missing=str(gone), passing=isinstance(gone, FootageAway))
    except CandidateError as error:
        return Thumbnail(None, missing=f"cannot be shown: {error.reason}", passing=error.reason in PROVISIONAL)
    except SandboxError:
        return Thumbnail(None, missing="cannot be shown: the decoder failed", passing=True)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    )
    if not done:
        return Thumbnail(None, missing="cannot be shown: JPEG encoding failed")
    return Thumbnail(data.tobytes(), strip.shape[1], strip.shape[0])


def make_sheet(footage: Footage, row: Mapping[str, Any]) -> Thumbnail:
    """Six pictures of the row in two lines: its first six views, or six frames spread over its only one. Never raises, as above."""
    return _thumbnail(lambda: compose_lines(_six(footage, row)))


def _six(footage: Footage, row: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    if len(row["view_ids"]) > 1:
        return [_frames(view, 1)[0] for view in footage.views(row, MOST_VIEWS)]
    view = next(iter(footage.views(row, 1)))
    index, chosen = _chosen(view)
    at = np.unique(np.linspace(0, len(chosen) - 1, min(6, len(chosen))).round().astype(int))
    return _read(view, index, [chosen[i] for i in at])


def _pictures(footage: Footage, row: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    """A multi-view sample: one picture of each view. One view: its first, middle and last frame."""
    if len(row["view_ids"]) > 1:
        return [_frames(view, 1)[0] for view in footage.views(row, MOST_VIEWS)]
    return next(_frames(view, 3) for view in footage.views(row, 1))


def _overlaid(footage: Footage, row: Mapping[str, Any], member: str, arrays: Arrays) -> list[NDArray[np.uint8]]:
    """Frames of the first view with what a stage found in them; none where the arrays are not as that stage makes them."""
    view = next(iter(footage.views(row, 1)))
    index, chosen = _chosen(view)
    try:
        frames = overlays.frames_of(member, arrays, len(chosen)) or [0]
        return overlays.draw(member, arrays, _read(view, index, [chosen[frame] for frame in frames]), frames)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, cv2.error):
        return []


def _frames(view: FootageView, count: int) -> list[NDArray[np.uint8]]:
    index, chosen = _chosen(view)
    middle = len(chosen) // 2
    wanted = [chosen[middle]] if count == 1 else list(dict.fromkeys([chosen[0], chosen[middle], chosen[-1]]))
    return _read(view, index, wanted)


def _chosen(view: FootageView) -> tuple[FrameIndex, list[int]]:
    """The media's index and the positions in it that belong to the row. Raises FootageGone."""
    index = view.media.index(view.ref)
    chosen = list(range(len(index))) if view.frames is None else [frame for frame in view.frames if frame < len(index)]
    if not chosen:
        raise FootageGone("no such frame in the footage")
    return index, chosen


def _read(view: FootageView, index: FrameIndex, wanted: list[int]) -> list[NDArray[np.uint8]]:
    scale = min(TALLEST / index.height, STRIP_WIDTH / index.width, 1.0)
    size = (max(2, round(index.width * scale)), max(2, round(index.height * scale)))
    return list(view.media.frames(view.ref, index, wanted, size))


def compose(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """[H,W,3] RGB: the pictures [h,w,3] side by side at one height, at most STRIP_WIDTH wide and TALLEST high."""
    aspect = sum(picture.shape[1] / picture.shape[0] for picture in pictures)
    height = max(16, min(TALLEST, int((STRIP_WIDTH - GAP * (len(pictures) - 1)) / aspect)))
    resized = [
        cv2.resize(picture, (max(2, round(picture.shape[1] * height / picture.shape[0])), height), interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    width = sum(picture.shape[1] for picture in resized) + GAP * (len(resized) - 1)
    strip = np.full((height, width, 3), BACKGROUND, np.uint8)
    x = 0
    for picture in resized:
        strip[:, x : x + picture.shape[1]] = picture
        x += picture.shape[1] + GAP
    return strip


def compose_lines(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """[H,W,3] RGB: more than three pictures in two lines, each as `compose` makes it."""
    if len(pictures) <= 3:
        return compose(pictures)
    half = (len(pictures) + 1) // 2
    lines = [compose(pictures[:half]), compose(pictures[half:])]
    made = np.full((lines[0].shape[0] + GAP + lines[1].shape[0], max(line.shape[1] for line in lines), 3), BACKGROUND, np.uint8)
    made[: lines[0].shape[0], : lines[0].shape[1]] = lines[0]
    made[-lines[1].shape[0] :, : lines[1].shape[1]] = lines[1]
    return made
