"""Scenes without media, for stages that look at headers and cameras only, and short clips for those that look at pixels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.camera import CameraTrack, intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.recipe import MediaLimits
from stages.media import Media

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
            index = FrameIndex(pts, pts[:1], Fraction(1, 90_000), *size, rate, "h264")
            media = MediaRef("video", (MediaFile(f"cam{i}.mp4", 1, 1),))
            track = cameras[i]
            posed = None if track is None else np.arange(len(track)) if camera_frames is None else camera_frames[i]
            views.append(SceneView(f"cam{i}", media, index, track, posed))
        listed = tuple(View(view.view_id, view.media) for view in views)
        return Scene(Candidate("source", candidate_id, kind, listed, attrs=attrs or {}, split=split), tuple(views))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def media(clip_folder: Path) -> Iterator[Media]:
    with Media(clip_folder, MediaLimits()) as opened:
        yield opened


@pytest.fixture
def make_clip(clip_folder: Path, media: Media) -> Callable[..., Scene]:
    """A scene of one H.264 video at 25 frames a second, encoded from full-range luma frames [H,W]."""

    def make(frames: Sequence[NDArray[np.uint8]]) -> Scene:
        name = f"clip{len(list(clip_folder.iterdir()))}.mp4"
        with av.open(str(clip_folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "15", "preset": "veryfast"})
            stream.height, stream.width = frames[0].shape
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, axis=2), "rgb24")))
            container.mux(stream.encode())
        stat = (clip_folder / name).stat()
        ref = MediaRef("video", (MediaFile(name, stat.st_size, stat.st_mtime_ns),))
        return Scene(Candidate("clips", name, "video", (View("cam", ref),)), (SceneView("cam", ref, media.index(ref)),))

    return make
