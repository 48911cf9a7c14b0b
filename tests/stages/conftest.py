"""Scenes without media, for stages that look at headers and cameras only."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.camera import CameraTrack, intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView

SceneMaker = Callable[..., Scene]
TrackMaker = Callable[..., CameraTrack]


@pytest.fixture
def make_track() -> TrackMaker:
    """A pinhole track of poses [T,4,4] with a horizontal field of view, 640 x 360 by default."""

    def make(c2w: NDArray[np.float64], fov_deg: float = 60.0, size: tuple[int, int] = (640, 360), **more: Any) -> CameraTrack:
        focal = size[0] / 2 / np.tan(np.radians(fov_deg) / 2)
        K = intrinsics(focal, focal, size[0] / 2, size[1] / 2, len(c2w))
        return CameraTrack(c2w, K, *size, more.pop("scale", "arbitrary"), **more)

    return make


@pytest.fixture
def make_scene() -> SceneMaker:
    """A scene from times in seconds per view, or a frame count and a rate; cameras and their frames where given."""

    def make(
        times: Sequence[Sequence[float]] | None = None,
        *,
        frames: int = 100,
        fps: float = 30.0,
        cameras: Sequence[CameraTrack | None] = (None,),
        camera_frames: Sequence[NDArray[np.int64] | None] | None = None,
        kind: str = "video",
        candidate_id: str = "clip",
        attrs: Mapping[str, str | int] | None = None,
        split: str | None = None,
        size: tuple[int, int] = (640, 360),
    ) -> Scene:
        if times is None:
            times = [np.arange(frames) / fps] * len(cameras)
        if len(cameras) != len(times):
            cameras = [None] * len(times)
        views = []
        for i, seconds in enumerate(times):
            pts = np.rint(np.asarray(seconds, np.float64) * 90_000).astype(np.int64)
            rate = Fraction(90_000 * (len(pts) - 1), int(pts[-1] - pts[0])) if len(pts) > 1 else Fraction(1)
            index = FrameIndex(pts, pts[:1], Fraction(1, 90_000), *size, rate, "h264", "yuv420p")
            media = MediaRef("video", (MediaFile(f"cam{i}.mp4", 1, 1),))
            track = cameras[i]
            posed = None if track is None else np.arange(len(track)) if camera_frames is None else camera_frames[i]
            views.append(SceneView(f"cam{i}", media, index, track, posed))
        listed = tuple(View(view.view_id, view.media) for view in views)
        return Scene(Candidate("source", candidate_id, kind, listed, attrs=attrs or {}, split=split), tuple(views))  # type: ignore[arg-type]

    return make
