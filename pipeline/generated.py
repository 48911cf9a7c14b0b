"""What inference writes for one sample: a video for each view, all views in one grid, the cameras, and every setting.

settings.json comes last: a folder that has it is complete. The same pictures give the same bytes.
"""

import json
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store import TEMPORARY, sweep, write_bytes, write_json
from pipeline.viewpoints import Viewpoints, write_cameras
from schemas.recipe import Encode
from schemas.typed import from_json

SETTINGS, CAMERAS, GRID = "settings.json", "cameras.json", "grid.mp4"

_OURS = re.compile(rf"view\d+\.mp4|{GRID}|{CAMERAS}|{TEMPORARY}.*")

Pictures = NDArray[np.uint8]


class OutputError(ValueError):
    """An output folder that holds something else. The message says what differs."""


def is_finished(folder: Path, request: Mapping[str, Any]) -> bool:
    """Whether the folder holds the complete answer to this request. Raises OutputError where it answers another one."""
    try:
        done = dict(from_json((folder / SETTINGS).read_text("utf-8"))["request"])
    except FileNotFoundError:
        _refuse_others(folder)
        return False
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{folder / SETTINGS} is not a file of ours; name another --output") from None
    asked = json.loads(json.dumps(request))
    differing = [f"{key} {done.get(key)!r}, now {asked.get(key)!r}" for key in sorted({*done, *asked}) if done.get(key) != asked.get(key)]
    if differing:
        raise OutputError(
            f"{folder} holds what other settings made ({'; '.join(differing[:4])}); name another --output, or remove the folder first"
        )
    return True


def _refuse_others(folder: Path) -> None:
    """Raises OutputError for a folder with anything in it but what a stopped run of ours leaves."""
    others = sorted(path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)) if folder.is_dir() else []
    if others:
        raise OutputError(f"--output {folder} holds something else ({', '.join(others[:4])}); name a new or empty folder")


def write_sample(
    folder: Path, pictures: Pictures, cameras: Viewpoints, request: Mapping[str, Any], made_with: Mapping[str, Any], fps: float
) -> None:
    """pictures [V,F,H,W,3] RGB of even height and width. request: what decides the result; made_with: on what it was made.

    Every file whole or not at all. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for number, view in enumerate(pictures):
        write_bytes(folder / f"view{number:02d}.mp4", mp4(view, fps))
    write_bytes(folder / GRID, mp4(grid(pictures), fps))
    write_cameras(folder / CAMERAS, cameras)
    write_json(folder / SETTINGS, {"request": request, "made_with": made_with})


def mp4(pictures: Pictures, fps: float) -> bytes:
    """[F,H,W,3] RGB of even height and width as H.264."""
    from av.video.frame import VideoFrame

    from stages.media.writer import write_mp4

    frames = (VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24") for picture in pictures)
    height, width = pictures.shape[1:3]
    times = np.arange(len(pictures), dtype=np.int64)
    return write_mp4(frames, times, 1 / Fraction(fps).limit_denominator(1001), (width, height), Encode())


def grid(pictures: Pictures) -> Pictures:
    """[V,F,H,W,3] to [F,rows*H,columns*W,3]: up to three views side by side, more in a near-square; black where none is left."""
    views, frames, height, width = pictures.shape[:4]
    columns = views if views <= 3 else math.ceil(math.sqrt(views))
    rows = math.ceil(views / columns)
    made = np.zeros((frames, rows * height, columns * width, 3), np.uint8)
    for number, view in enumerate(pictures):
        top, left = (number // columns) * height, (number % columns) * width
        made[:, top : top + height, left : left + width] = view
    return made
