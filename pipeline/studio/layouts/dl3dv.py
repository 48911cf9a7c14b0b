"""DL3DV-10K: 1K/<hash>/transforms.json with images_4/, images_8/ or images/ in turn (spec section 2.5).

As published: OpenGL camera axes, intrinsics of the full-size picture, a world that nerfstudio has turned (in the older or the
newer way, by turns) and a unit of the scene's own. One picture in ten or so could not be registered and has no pose. The
lens is a perfect pinhole: its distortion is there, and zero. The truth has every picture, with or without a pose.
"""

import json
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.studio.layouts.order import Defaults, Order, camera_track, frame_times, write_text
from pipeline.studio.scene import Array
from pipeline.studio.trajectories import handheld, walk
from pipeline.studio.worlds import RoomSize, room
from schemas.camera import CameraTrack, relative_to

DEFAULTS = Defaults(scenes=3, cameras=1, frames=60, size=(256, 144), max_cameras=1)
RATE = Fraction(5)  # pictures a second: about 300 of a video of a minute
FOLDERS = (("images_4", 4), ("images_8", 8), ("images", 1))
# What nerfstudio applies to COLMAP's world: x and y swapped and z negated, and since 2023 y and z swapped and z negated.
APPLIED = (
    np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]),
    np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
)
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z backward


def write(order: Order) -> None:
    for number in range(order.scenes):
        _scene(order, number)


def _scene(order: Order, number: int) -> None:
    rng = order.rng(number, 0)
    name = rng.bytes(32).hex()
    half = (float(rng.uniform(3.2, 4.5)), float(rng.uniform(2.6, 3.4)))
    size = RoomSize((-half[0], half[0]), (-half[1], half[1]), float(rng.uniform(2.5, 3.0)))
    path = handheld(rng, walk(rng, order.frames, float(RATE), size), float(RATE), degrees=0.4, metres=0.01)
    camera = camera_track(path, float(rng.uniform(0.45, 0.6)) * order.size[0], order.size)
    scene, times = room(order.scene_seed(number), size), frame_times(order.frames, RATE)
    registered = rng.random(order.frames) > 0.1
    registered[[0, -1]] = True
    world = relative_to(path, path[0])
    world[:, :3, 3] /= float(rng.uniform(0.6, 2.0))  # metres in the scene's unit; structure from motion knows no scale
    folder, shrink = FOLDERS[number % len(FOLDERS)]
    place = order.output / "1K" / name
    (place / folder).mkdir(parents=True)
    for k, image in enumerate(order.film(scene, camera, times), 1):
        (place / folder / picture(k)).write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    listed = rng.permutation(np.flatnonzero(registered))  # COLMAP's order is its own
    text = transforms(camera, world, listed, shrink, APPLIED[number % len(APPLIED)])
    write_text(place / "transforms.json", text)
    order.write_truth(name, scene, {"cam": camera}, times)


def picture(number: int) -> str:
    """The file name of the picture with this number, from 1."""
    return f"frame_{number:05d}.png"


def transforms(camera: CameraTrack, world: Array, listed: NDArray[np.int64], shrink: int, applied: Array) -> str:
    """transforms.json of the poses `world` [N,4,4] (OpenCV) that are listed, for pictures `shrink` times those of the camera."""
    K = camera.K[0] * shrink
    document = {
        "w": camera.width * shrink,
        "h": camera.height * shrink,
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "camera_model": "OPENCV",
        "applied_transform": applied[:3].tolist(),
        "frames": [
            {
                "file_path": f"images/{picture(int(k) + 1)}",
                "transform_matrix": (applied @ world[k] @ OPENGL).tolist(),
                "colmap_im_id": number,
            }
            for number, k in enumerate(listed, 1)
        ],
    }
    return json.dumps(document, indent=4) + "\n"
