"""Lenses that distort: views are carried as they are, or read undistorted where the recipe says `undistort: true`."""

from dataclasses import replace

import numpy as np

from schemas.camera import CameraTrack, Lens
from schemas.candidate import MediaRef
from schemas.verdict import CandidateError, Reason

# Ours: what no lens that took the picture leaves, so the coefficients are another one's, or of pictures of another size.
MAX_BLACK = 0.5


def through_lens(ref: MediaRef, track: CameraTrack, undistort: bool) -> tuple[MediaRef, CameraTrack, str | None]:
    """How a view is read, its cameras, and a note; the track is of the pictures as they are, and where none distorts nothing changes.

    undistort: pictures are read through the pinhole of the same K and size (stages/media/lens.py), and the track has no distortion.
    Raises CandidateError: E_CAMERA for a fisheye that is not undistorted, since no K tells its rays, and where undistorting is not
    possible: K that changes or is skewed, coefficients that are no numbers or leave most of the picture black; E_TOO_BIG.
    """
    if track.model == "opencv" and not any(track.distortion):
        return ref, track, None
    coefficients = " ".join(f"{x:.6g}" for x in track.distortion)
    if not undistort:
        if track.model == "fisheye":
            message = f"the lens is a fisheye (OPENCV_FISHEYE {coefficients}), whose rays no K tells; set the option undistort to true"
            raise CandidateError(Reason.E_CAMERA, message)
        return ref, track, f"{coefficients}; the pictures are as published, not undistorted"
    lens = _lens(track, coefficients)
    from stages.media.lens import shares

    lost, black = shares(lens)
    if black > MAX_BLACK:
        raise CandidateError(
            Reason.E_CAMERA,
            f"undistorting ({lens.model} {coefficients}) leaves {black:.1%} of the picture black, at most {MAX_BLACK:.0%} is taken: these "
            "coefficients are no lens's that took it; check them, and the size that K speaks of",
        )
    note = f"{lens.model} {coefficients}; undistorted with the same K and size: {lost:.2%} of the picture lost, {black:.2%} black"
    return replace(ref, lens=lens), replace(track, distortion=(), model="opencv"), note


def _lens(track: CameraTrack, coefficients: str) -> Lens:
    from stages.media.lens import MAX_SIDE

    K = track.K[0]
    if not np.isfinite(track.distortion).all():
        raise CandidateError(Reason.E_CAMERA, f"undistort: the coefficients are {coefficients}; expected finite numbers")
    if (track.K != K).any():
        i = int((track.K != K).any(axis=(1, 2)).argmax())
        raise CandidateError(
            Reason.E_CAMERA,
            f"undistort: K changes at pose {i} (fx {K[0, 0]:g}, then {track.K[i, 0, 0]:g}); a view needs one, undistort it first",
        )
    if K[0, 1]:
        raise CandidateError(
            Reason.E_CAMERA, f"undistort: K has a skew of {K[0, 1]:g}, which OpenCV's models know nothing of; it must be 0"
        )
    if max(track.width, track.height) > MAX_SIDE:
        raise CandidateError(Reason.E_TOO_BIG, f"undistort: {track.width}x{track.height} pixels; a side has at most {MAX_SIDE}")
    fx, fy, cx, cy = (float(each) for each in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    return Lens(track.model, fx, fy, cx, cy, tuple(map(float, track.distortion)), track.width, track.height)
