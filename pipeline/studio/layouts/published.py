"""Footage along published RealEstate10K trajectories: a room is furnished around each path.

The published unit is arbitrary, so a path is scaled to a stroll through a room, turned so that the cameras' mean upward
direction is z, and lifted to eye height. Walls stand a good two metres off it. A file may list only some frames of its
video; poses are interpolated between them, so that the video has every frame, and its clock is the file's.
"""

from fractions import Fraction
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from pipeline.studio.layouts.order import Order
from pipeline.studio.layouts.posed_clip import Clip
from pipeline.studio.scene import Array
from pipeline.studio.trajectories import interpolate
from pipeline.studio.worlds import RoomSize, room
from schemas.camera import CameraTrack, from_w2c

NTSC = Fraction(1000, 1001)
RATES = (24 * NTSC, Fraction(24), Fraction(25), 30 * NTSC, Fraction(30), Fraction(50), 60 * NTSC, Fraction(60))
STROLL = 2.5  # metres that the longer horizontal side of a path is scaled to
EYE_HEIGHT, LOWEST, CLEARANCE = 1.5, 0.8, 2.2  # metres


def published_clips(order: Order, folder: Path) -> list[Clip]:
    """The first `order.scenes` trajectories of the folder by name, all of them for train."""
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise ValueError(f"{folder} holds no trajectory (*.txt)")
    return [_clip(order, path) for path in paths[: order.scenes]]


def _clip(order: Order, path: Path) -> Clip:
    text = path.read_text(encoding="utf-8")
    url, *lines = text.splitlines()
    try:
        rows = np.array([[float(part) for part in line.split()] for line in lines if line.strip()])
        times_us = rows[:, 0].astype(np.int64)
        cameras = rows[:, 1:].reshape(-1, 18)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected a URL line and then 19 numbers a line: {error}") from None
    video = parse_qs(urlsplit(url.strip()).query).get("v", [""])[0]
    if not video:
        raise ValueError(f"{path}: the first line must be a YouTube URL with ?v=, got {url!r:.80}")
    rate = frame_rate(times_us)
    numbers = np.array([round(int(time) * rate / 1_000_000) for time in times_us])
    frames = np.arange(numbers[0], numbers[-1] + 1)
    placed, size = place(from_w2c(cameras[:, 6:].reshape(-1, 3, 4)))
    width, height = order.size
    lens = np.stack([np.interp(frames, numbers, cameras[:, k]) for k in range(4)], axis=1) * (width, height, width, height)
    K = np.zeros((len(frames), 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = *lens.T, 1.0
    camera = CameraTrack(interpolate(numbers, placed, frames), K, width, height, "metres", up=(0.0, 0.0, 1.0))
    seed = int(order.rng(0, 2).integers(2**20)) + int.from_bytes(path.stem.encode()[:6], "big")
    scene, first = room(seed % 2**31, size), int(numbers[0])
    return Clip(path.stem, video, "train", scene, camera, first, rate, numbers - first, times_us, cameras, text)


def frame_rate(times_us: NDArray[np.int64]) -> Fraction:
    """The usual rate whose frames the times lie on best."""

    def misfit(rate: Fraction) -> float:
        position = np.array([float(int(time) * rate / 1_000_000) for time in times_us])
        # Counted in frames, so that of a rate and its double the slower one wins.
        return float(np.sqrt(np.mean((position - np.rint(position)) ** 2)))

    return min(RATES, key=misfit)


def place(c2w: Array) -> tuple[Array, RoomSize]:
    """Bring camera-to-world [N,4,4] of any unit and orientation into a room: metres, z up; and that room's size."""
    up = -c2w[:, :3, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    ahead = c2w[0, :3, 2] - (c2w[0, :3, 2] @ up) * up
    if np.linalg.norm(ahead) < 1e-6:
        ahead = np.cross(up, (1.0, 0.0, 0.0))
    ahead /= np.linalg.norm(ahead)
    turn = np.stack([ahead, np.cross(up, ahead), up])
    placed = np.tile(np.eye(4), (len(c2w), 1, 1))
    placed[:, :3, :3] = turn @ c2w[:, :3, :3]
    position = c2w[:, :3, 3] @ turn.T
    position *= STROLL / max(float(np.ptp(position[:, :2], axis=0).max()), 1e-3)
    position[:, :2] -= (position[:, :2].max(axis=0) + position[:, :2].min(axis=0)) / 2
    position[:, 2] += max(EYE_HEIGHT - position[:, 2].mean(), LOWEST - position[:, 2].min())
    placed[:, :3, 3] = position
    reach = position[:, :2].max(axis=0) + CLEARANCE
    return placed, RoomSize((-reach[0], reach[0]), (-reach[1], reach[1]), max(2.7, float(position[:, 2].max()) + 0.9))
