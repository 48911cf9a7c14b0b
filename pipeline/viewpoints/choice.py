"""What a user writes after --cameras: a preset, or a camera file with or without a choice of its cameras."""

from pathlib import Path

from pipeline.viewpoints.base import Viewpoints, ViewpointsError
from pipeline.viewpoints.files import read_cameras
from pipeline.viewpoints.presets import PRESETS, preset
from schemas.typed import nearest


def viewpoints(text: str, *, views: int | None, default_views: int, frames: int, size: tuple[int, int]) -> Viewpoints:
    """`azimuth:step=20`, `FILE`, or `FILE#cam03,cam01` (the first named is view 0), for pictures of size (width, height).

    views: how many were asked for, None where nobody said: then a preset has `default_views`, and a file all its cameras.
    Raises ViewpointsError; so does a number of views that is not the file's.
    """
    name, _, chosen = text.rpartition("#") if "#" in text and not Path(text).exists() else (text, "", "")
    if text.partition(":")[0] in PRESETS and not Path(text).exists():
        return preset(text, views=default_views if views is None else views, frames=frames, size=size)
    if not Path(name).exists():
        known = f"there is no such file or folder, and no such preset{nearest(text.partition(':')[0], PRESETS)}"
        raise ViewpointsError(f"cameras {text!r}: {known}")
    made = read_cameras(Path(name), [each.strip() for each in chosen.split(",")] if chosen else None, frames=frames, size=size)
    if views is not None and made.views != views:
        names = ", ".join(made.names[:12]) + (", ..." if made.views > 12 else "")
        raise ViewpointsError(
            f"cameras {text!r}: {made.views} cameras ({names}), but --views is {views}; choose with {name}#NAME,NAME, or leave --views off"
        )
    return made
