"""Cameras meet the frames that are really there: size rules, static cameras over time, the point all cameras look at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from schemas.camera import Array, CameraTrack
from schemas.frames import FrameIndex
from schemas.verdict import CandidateError, Reason

SizeRule = Literal["crop", "scale", "refuse"]
Anchor = Literal["centre", "top-left"]

# Encoders want even sizes, so a resized picture may miss its exact aspect ratio by up to two pixels.
ROUNDING_PIXELS = 2.0


def fit_to_frames(
    track: CameraTrack, width: int, height: int, rule: SizeRule, anchor: Anchor = "centre", max_cut: float = 1.0
) -> tuple[CameraTrack, str | None]:
    """The track for frames of width x height, and a note on what was assumed (None where the sizes agree).

    Frames of the same aspect ratio (to two pixels) are taken to be resized: K scales with each side. Otherwise the rule
    decides. "crop": resized to cover, then cut at the anchor; at most `max_cut` of a side (fraction). "scale": stretched
    to the new size, so pixels are no longer square. "refuse": E_CAMERA. Raises E_CAMERA too where a crop cannot be meant.
    """
    if (track.width, track.height) == (width, height):
        return track, None
    was, now = f"cameras speak of {track.width}x{track.height}", f"frames are {width}x{height}"
    cover = max(width / track.width, height / track.height)
    resized = track.width * cover, track.height * cover
    cut = resized[0] - width, resized[1] - height
    resize_only = cover != 1 and max(cut) <= ROUNDING_PIXELS
    if resize_only or rule == "scale":
        return track.scaled(
            width, height
        ), f"{was}, {now}: {'resized' if resize_only else 'scale'}, K times {width / track.width:.6g} x {height / track.height:.6g}"
    share = max(cut[0] / resized[0], cut[1] / resized[1])
    padded = cover > 1 and (track.width == width or track.height == height)
    if rule == "refuse" or padded or share > max_cut:
        why = "the size rule is refuse" if rule == "refuse" else f"a crop would cut {share:.1%} of a side, at most {max_cut:.1%} is allowed"
        why = "only one side grew, which is padding and no crop" if padded else why
        raise CandidateError(Reason.E_CAMERA, f"{was}, {now}, and {why}; set the option size_rule to crop or scale, or recalibrate")
    left, top = (cut[0] / 2, cut[1] / 2) if anchor == "centre" else (0.0, 0.0)
    factor = np.diag([cover, cover, 1.0])
    covering = replace(track, K=factor @ track.K, width=round(resized[0]), height=round(resized[1]))
    note = f"{was}, {now}: crop at {anchor}, K times {cover:.6g}, cut {cut[0]:.6g} x {cut[1]:.6g} px, left {left:.6g}, top {top:.6g}"
    return covering.cropped(left, top, width, height), note


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
