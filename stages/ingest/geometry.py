"""Cameras meet the frames that are really there: size rules, static cameras over time, the point all cameras look at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from schemas.camera import Array, CameraTrack
from schemas.frames import FrameIndex
from schemas.verdict import CandidateError, Reason

SizeRule = Literal["crop", "pad", "scale", "refuse"]
Anchor = Literal["centre", "top-left"]

# Encoders want even sizes, so a resized picture may miss its exact aspect ratio by up to two pixels.
ROUNDING_PIXELS = 2.0

_WAYS_OUT = "set the option size_rule to crop, pad or scale, or recalibrate"


def fit_to_frames(
    track: CameraTrack, width: int, height: int, rule: SizeRule, anchor: Anchor = "centre", max_cut: float = 1.0
) -> tuple[CameraTrack, str | None]:
    """The track for frames of width x height, and a note on what was assumed (None where the sizes agree).

    Frames of the same aspect ratio (to two pixels) are taken to be resized: K scales with each side. Otherwise the rule
    decides. "crop": resized to cover, then cut at the anchor; at most `max_cut` of a side (fraction). "pad": resized to
    fit inside, then surrounded by bars, the picture at the anchor. "scale": stretched to the new size, so pixels are no
    longer square. "refuse": E_CAMERA. Raises E_CAMERA too where a crop cannot be meant.
    """
    if (track.width, track.height) == (width, height):
        return track, None
    sizes = f"cameras speak of {track.width}x{track.height}, frames are {width}x{height}"
    scales = width / track.width, height / track.height
    resize_only = max(scales) != 1 and max(_surplus(track, width, height, max(scales))) <= ROUNDING_PIXELS
    if resize_only or rule == "scale":
        done = "resized" if resize_only else "scale"
        return track.scaled(width, height), f"{sizes}: {done}, K times {scales[0]:.6g} x {scales[1]:.6g}"
    if rule == "refuse":
        raise CandidateError(Reason.E_CAMERA, f"{sizes}, and the size rule is refuse; {_WAYS_OUT}")
    factor = max(scales) if rule == "crop" else min(scales)
    surplus = _surplus(track, width, height, factor)
    if rule == "crop":
        _check_crop(track, surplus, scales, max_cut, sizes)
    left, top = (surplus[0] / 2, surplus[1] / 2) if anchor == "centre" else (0.0, 0.0)
    K = np.diag([factor, factor, 1.0]) @ track.K
    resized = replace(track, K=K, width=round(track.width * factor), height=round(track.height * factor))
    moved = (
        f"cut {surplus[0]:.6g} x {surplus[1]:.6g} px"
        if rule == "crop"
        else f"bars of {max(0.0, -surplus[0]):.6g} x {max(0.0, -surplus[1]):.6g} px"
    )
    return resized.cropped(left, top, width, height), f"{sizes}: {rule} at {anchor}, K times {factor:.6g}, {moved}"


def _surplus(track: CameraTrack, width: int, height: int, factor: float) -> tuple[float, float]:
    """By how many pixels the resized picture is larger than the frames; negative where bars fill the rest."""
    return track.width * factor - width, track.height * factor - height


def _check_crop(track: CameraTrack, cut: tuple[float, float], scales: tuple[float, float], max_cut: float, sizes: str) -> None:
    factor = max(scales)
    share = max(cut[0] / (track.width * factor), cut[1] / (track.height * factor))
    if factor > 1 and min(scales) == 1:
        raise CandidateError(Reason.E_CAMERA, f"{sizes}: only one side grew, which is padding and no crop; {_WAYS_OUT}")
    if share > max_cut:
        raise CandidateError(
            Reason.E_CAMERA, f"{sizes}: a crop would cut {share:.1%} of a side, at most {max_cut:.1%} is allowed; {_WAYS_OUT}"
        )


def over_frames(track: CameraTrack, index: FrameIndex, what: str) -> CameraTrack:
    """One camera for every frame: a single pose is static and repeated. Raises E_FRAMECOUNT where the numbers differ."""
    frames = len(index)
    if len(track) == 1:
        return track.at(np.zeros(frames, np.int64)) if frames else track
    if len(track) != frames:
        raise CandidateError(
            Reason.E_FRAMECOUNT,
            f"{what} has {len(track)} camera poses for {frames} frames; there must be one for each frame, or one for all",
        )
    return track


def match_names(views: Sequence[str], cameras: Sequence[str]) -> None:
    """Raise E_FRAMECOUNT unless views and cameras are the same names."""
    without, unused = [v for v in views if v not in set(cameras)], [c for c in cameras if c not in set(views)]
    if without or unused:
        parts = [f"no camera for the videos {_some(without)}"] if without else []
        parts += [f"no video for the cameras {_some(unused)}"] if unused else []
        raise CandidateError(
            Reason.E_FRAMECOUNT, f"{len(views)} videos and {len(cameras)} cameras do not go together by name: {'; '.join(parts)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def common_centre(c2w: Array, within_deg: float) -> tuple[float, float, float] | None:
    """The point nearest to the optical axes of all poses [N,4,4], where there is one that they all look at.

    None where the axes are all but parallel or come from one place (no parallax: the point's distance is not defined),
    or where the point lies more than within_deg off any axis, or behind a camera.
    """
    position, axis = c2w[:, :3, 3], c2w[:, :3, 2]
    across = np.eye(3) - axis[:, :, None] * axis[:, None, :]  # projects onto the plane across each axis
    normal = across.sum(0)
    values = np.linalg.eigvalsh(normal / len(c2w))
    if values[0] < 1e-4 or np.ptp(position, axis=0).max() == 0:  # sin² of about half a degree between the axes
        return None
    point = np.linalg.solve(normal, np.einsum("nij,nj->i", across, position))
    ray = point - position
    distance = np.linalg.norm(ray, axis=1)
    if (distance < 1e-9).any():
        return None
    cosine = np.einsum("ni,ni->n", ray, axis) / distance
    if cosine.min() < np.cos(np.radians(within_deg)):
        return None
    return (float(point[0]), float(point[1]), float(point[2]))


def bars_of_padding(track: CameraTrack, width: int, height: int, anchor: Anchor) -> list[float]:
    """[left, top, right, bottom] in pixels: the bars that the rule "pad" would have left in frames of width x height."""
    across, down = (-each for each in _surplus(track, width, height, min(width / track.width, height / track.height)))
    left, top = (across / 2, down / 2) if anchor == "centre" else (0.0, 0.0)
    return [left, top, across - left, down - top]
