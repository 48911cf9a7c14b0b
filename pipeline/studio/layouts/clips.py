"""A folder of single-view clips with caption side-cars: fixed and moving cameras, moving and still subjects, and bad ones.

Good clips cycle through the four combinations (`scenes` counts them). The bad ones each have one fault, named by the file.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from pipeline.studio.layouts.order import Defaults, Image, Order, camera_track, frame_times, write_text
from pipeline.studio.scene import Array
from pipeline.studio.textures import Rng
from pipeline.studio.trajectories import dolly, handheld, hold, orbit, scattered, zoom
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import Subject, plaza
from schemas.camera import CameraTrack, intrinsics

DEFAULTS = Defaults(scenes=8, cameras=1, frames=60, size=(320, 180), max_cameras=1)
RATE = Fraction(24)
FOCAL = 0.95  # of the width
NOISE = 5.0  # standard deviation of the sensor's noise, grey levels
KINDS: tuple[tuple[str, Subject], ...] = (
    ("fixed-camera", "moving"), ("moving-camera", "moving"), ("moving-camera", "still"), ("fixed-camera", "still"),
)  # fmt: skip
SHORT = 5  # frames of the clip that is too short

Frames = list[Image]

FAULTS: dict[str, Callable[[Frames], Frames]] = {
    "black": lambda frames: [np.zeros_like(frame) for frame in frames],
    "frozen": lambda frames: [frames[0]] * len(frames),
    "letterboxed": lambda frames: [letterboxed(frame) for frame in frames],
    "blurred": lambda frames: [np.asarray(cv2.GaussianBlur(frame, (0, 0), frame.shape[1] / 64), np.uint8) for frame in frames],
    "too-short": lambda frames: frames[:SHORT],
    "underexposed": lambda frames: [(frame * 0.08).astype(np.uint8) for frame in frames],
    "overexposed": lambda frames: [np.clip(frame.astype(np.float32) * 1.6 + 150, 0, 255).astype(np.uint8) for frame in frames],
}


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    example: Frames = []
    for number in range(order.scenes):
        kind, subject = KINDS[number % len(KINDS)]
        rng = order.rng(number, 0)
        scene = plaza(order.scene_seed(number), subject, movers=2)
        camera = _camera(rng, kind, order)
        frames = list(noisy(order.film(scene, camera, times), order.rng(number, 1)))
        example = example or frames
        name = f"{kind}_{subject}-subject_{number // len(KINDS) + 1:02d}"
        write_mp4(order.output / f"{name}.mp4", frames, RATE)
        write_text(order.output / f"{name}.txt", scene.caption + "\n")
        order.write_truth(name, scene, {"cam": camera}, times)
    for fault, spoil in FAULTS.items():
        write_mp4(order.output / f"bad_{fault}.mp4", spoil(example), RATE)
        write_text(order.output / f"bad_{fault}.txt", f"A {fault.replace('-', ' ')} clip.\n")
    # With its index in front, a cut-off file still opens, and lacks frames.
    cut = order.output / "bad_truncated.mp4"
    write_mp4(cut, example, RATE, index_first=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 5])
    write_text(order.output / "bad_not-a-video.mp4", "<html><body>404: this video has moved.</body></html>\n")


def _camera(rng: Rng, kind: str, order: Order) -> CameraTrack:
    """Fixed on a tripod, or one of orbit, dolly, handheld and zooming."""
    focal = np.full(order.frames, FOCAL * order.size[0])
    path: Array
    if kind == "fixed-camera":
        path = hold(scattered(rng, 1)[0], order.frames)
    else:
        move = int(rng.integers(3))
        path = (orbit(rng, order.frames), dolly(rng, order.frames), hold(scattered(rng, 1)[0], order.frames))[move]
        path = handheld(rng, path, float(RATE), 1.2, 0.03)
        focal = focal * zoom(order.frames, 1.5) if move == 2 else focal
    K = np.concatenate([intrinsics(f, f, order.size[0] / 2, order.size[1] / 2) for f in focal])
    track = camera_track(path, float(focal[0]), order.size)
    return CameraTrack(track.c2w, K, track.width, track.height, track.scale, up=track.up)


def noisy(frames: Iterator[Image], rng: Rng) -> Iterator[Image]:
    """Sensor noise: without it, a still subject before a fixed camera is a frozen video."""
    for frame in frames:
        yield np.clip(frame + rng.normal(0, NOISE, frame.shape[:2])[..., None], 0, 255).astype(np.uint8)


def letterboxed(frame: Image) -> Image:
    """Black bars above and below, a sixth of the height each."""
    bar = frame.shape[0] // 6
    out = np.zeros_like(frame)
    out[bar:-bar] = cv2.resize(frame, (frame.shape[1], frame.shape[0] - 2 * bar), interpolation=cv2.INTER_AREA)
    return out
