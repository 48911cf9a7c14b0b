"""Camera series by name: `azimuth`, `elevation`, `distance`, `arc`, each with parameters, all looking at one point.

    azimuth:step=20,distance=4,elevation=15

The world is right-handed with z up, in metres, and the cameras look at its origin. Azimuth grows to the right of view 0 (counter-
clockwise seen from above). Only relative poses matter to a model, so azimuth 0 is view 0 by convention.

The first three are the series of the SynCamMaster CogVideoX release, on its Hemi36 validation cameras: azimuth in steps of 20
degrees at 4 m and 15 degrees up (there Unreal's C_..., C_05, C_03, C_01 in this order, the first of the list being the
reference; Unreal's world is left-handed, so its falling azimuth is our rising one); elevation 0, 15, 30, ... at 5 m; distance
4, 5, 6, 7 m at 15 degrees up. `arc` and `move` are ours.
"""

from collections.abc import Callable

import numpy as np

from pipeline.viewpoints.base import Viewpoints, ViewpointsError
from schemas.camera import Array, intrinsics, look_at
from schemas.typed import nearest

SENSOR_MM = 23.76  # width of SynCamVideo's sensor; the picture is taken to be as wide
STEEPEST = 89.0  # degrees: straight above the point, "up" has no direction in the picture

Numbers = dict[str, float]
Series = tuple[Array, Array, Array]  # distance, elevation, azimuth, each [V]

# What every preset knows besides its own: focal length in mm, and how many degrees of azimuth every camera travels over the clip.
_COMMON: Numbers = {"focal": 18.0, "move": 0.0}


def _azimuth(k: Array, p: Numbers) -> Series:
    return _series(k, p["distance"], p["elevation"], p["step"] * k)


def _elevation(k: Array, p: Numbers) -> Series:
    return _series(k, p["distance"], p["start"] + p["step"] * k, 0.0)


def _distance(k: Array, p: Numbers) -> Series:
    return _series(k, p["start"] + p["step"] * k, p["elevation"], 0.0)


def _arc(k: Array, p: Numbers) -> Series:
    """A full circle is closed: its last view is one step before the first, not upon it."""
    steps = len(k) if abs(p["angle"]) == 360 else max(len(k) - 1, 1)
    return _series(k, p["distance"], p["elevation"], p["angle"] * k / steps)


# Name -> (series, its own parameters with their defaults, what it is).
PRESETS: dict[str, tuple[Callable[[Array, Numbers], Series], Numbers, str]] = {
    "azimuth": (_azimuth, {"step": 20.0, "distance": 4.0, "elevation": 15.0}, "views side by side, `step` degrees apart"),
    "elevation": (_elevation, {"step": 15.0, "start": 0.0, "distance": 5.0}, "views above each other, from `start` degrees up"),
    "distance": (_distance, {"step": 1.0, "start": 4.0, "elevation": 15.0}, "views behind each other, from `start` metres on"),
    "arc": (_arc, {"angle": 60.0, "distance": 4.0, "elevation": 15.0}, "views evenly over `angle` degrees; 360 is a closed ring"),
}


def preset(text: str, *, views: int, frames: int, size: tuple[int, int]) -> Viewpoints:
    """`NAME` or `NAME:KEY=NUMBER,...` as `views` cameras over `frames` frames of pictures of size (width, height).

    Raises ViewpointsError for an unknown name or key, what is no number, and cameras that cannot be.
    """
    name, _, rest = text.partition(":")
    if name not in PRESETS:
        raise ViewpointsError(f"unknown camera preset {name!r}{nearest(name, PRESETS)}")
    series, own, _ = PRESETS[name]
    numbers = _parameters(text, rest, own | _COMMON)
    if views < 1 or frames < 1:
        raise ViewpointsError(f"a preset needs at least one view and one frame, got {views} and {frames}")
    distance, elevation, azimuth = series(np.arange(views, dtype=np.float64), numbers)
    _check(text, distance, elevation, numbers["focal"])
    travelled = numbers["move"] * np.arange(frames) / max(frames - 1, 1)
    c2w = np.stack([[_at(d, e, a + m) for m in travelled] for d, e, a in zip(distance, elevation, azimuth, strict=True)])
    focal = size[0] * numbers["focal"] / SENSOR_MM
    K = np.broadcast_to(intrinsics(focal, focal, size[0] / 2, size[1] / 2), (views, frames, 3, 3)).copy()
    return Viewpoints(tuple(f"view{k:02d}" for k in range(views)), c2w, K, size, metric=True)


def described() -> str:
    """The presets and their parameters, for a command's help."""
    lines = []
    for name, (_, own, what) in PRESETS.items():
        given = ",".join(f"{key}={value:g}" for key, value in own.items())
        lines.append(f"  {name}:{given}  {what}")
    common = ",".join(f"{key}={value:g}" for key, value in _COMMON.items())
    return "\n".join([*lines, f"  and with each: {common}  (mm; degrees of azimuth that every camera travels over the clip)"])


def _parameters(text: str, rest: str, defaults: Numbers) -> Numbers:
    made = dict(defaults)
    for part in filter(None, rest.split(",")):
        key, separator, value = (each.strip() for each in part.partition("="))
        if key not in defaults:
            raise ViewpointsError(f"cameras {text!r}: unknown key {key!r}{nearest(key, defaults)}")
        try:
            made[key] = float(value)
        except ValueError:
            raise ViewpointsError(f"cameras {text!r}: {part!r} is not of the form KEY=NUMBER, e.g. {key}={defaults[key]:g}") from None
        if not separator or not np.isfinite(made[key]):
            raise ViewpointsError(f"cameras {text!r}: {key} is {value!r}; it must be a finite number")
    return made


def _check(text: str, distance: Array, elevation: Array, focal: float) -> None:
    if distance.min() <= 0:
        raise ViewpointsError(f"cameras {text!r}: a distance of {distance.min():g} m; distances must be greater than 0")
    if np.abs(elevation).max() > STEEPEST:
        worst = int(np.abs(elevation).argmax())
        raise ViewpointsError(
            f"cameras {text!r}: view {worst} would be at an elevation of {elevation[worst]:g} degrees; allowed: -{STEEPEST:g} to "
            f"{STEEPEST:g}; take fewer --views or a smaller step"
        )
    if focal <= 0:
        raise ViewpointsError(f"cameras {text!r}: focal is {focal:g} mm; it must be greater than 0")


def _series(k: Array, distance: Array | float, elevation: Array | float, azimuth: Array | float) -> Series:
    distance, elevation, azimuth, _ = np.broadcast_arrays(distance, elevation, azimuth, k)
    return distance, elevation, azimuth


def _at(distance: float, elevation_deg: float, azimuth_deg: float) -> Array:
    elevation, azimuth = np.radians(elevation_deg), np.radians(azimuth_deg)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return look_at(distance * direction, np.zeros(3))
