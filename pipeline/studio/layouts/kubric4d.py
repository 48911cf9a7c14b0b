"""Kubric-4D: data/scn00000/{frames_p0_v0/{rgba,depth,segmentation}_*, scn00000_p0_v0.json} (specs/recapture.md 4.2).

The published rig, drawn in from 15 m to 7 m, for a plaza is smaller than Kubric's stage: views 0 to 3 from 45 degrees up all around,
the others from 5 degrees up, 30 degrees apart; all look at (0, 0, 1). Scenes are test and train in turn: scn02900, scn00000, ...
Not written: forward_flow, normal and object_coordinates, the point clouds, and the videos of depth and masks.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.studio.layouts.indexed_png import write_indexed_png
from pipeline.studio.layouts.order import Defaults, Image, Order, camera_track, frame_times, write_text
from pipeline.studio.layouts.rig import quaternion
from pipeline.studio.scene import Scene
from pipeline.studio.trajectories import hold, on_sphere
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza
from schemas.camera import Array, CameraTrack

DEFAULTS = Defaults(scenes=2, cameras=5, frames=8, size=(192, 128), max_cameras=16)
RATE = Fraction(24)
FOCAL = 1.0  # of the width: 32 mm on a sensor of 32 mm
RADIUS, TARGET = 7.0, (0.0, 0.0, 1.0)  # metres


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    for number in range(order.scenes):
        name = f"scn{number // 2 + (0 if number % 2 else 2900):05d}"
        scene = plaza(order.scene_seed(number), movers=2)
        views = {
            f"v{k}": camera_track(hold(pose, order.frames), FOCAL * order.size[0], order.size)
            for k, pose in enumerate(rig()[: order.cameras])
        }
        for view, camera in views.items():
            folder = order.output / f"data/{name}/frames_p0_{view}"
            write_mp4(folder.parent / f"{name}_p0_{view}_rgb.mp4", _frames(order, folder, scene, camera, times), RATE)
            document = camera_document(camera, scene)
            write_text(folder.parent / f"{name}_p0_{view}.json", json.dumps(document, indent=1) + "\n")
        order.write_truth(name, scene, views, times)


def rig() -> Array:
    """[16,4,4] in the order of the views."""
    azimuth = [90.0 * k for k in range(4)] + [30.0 * (k + 0.5) for k in range(12)]
    return on_sphere(RADIUS, [45.0] * 4 + [5.0] * 12, azimuth, TARGET)


def _frames(order: Order, folder: Path, scene: Scene, camera: CameraTrack, times: NDArray[np.float64]) -> Iterator[Image]:
    """The pictures of a view, whose frames are written on the way."""
    folder.mkdir(parents=True)
    away = distance_over_depth(camera)
    for t, seen in enumerate(order.measure(scene, camera, times)):
        alpha = np.full((*seen.depth.shape, 1), 255, np.uint8)
        cv2.imwrite(str(folder / f"rgba_{t:05d}.png"), np.concatenate([seen.rgb[..., ::-1], alpha], axis=2))
        cv2.imwrite(str(folder / f"depth_{t:05d}.tiff"), (seen.depth * away).astype(np.float32))
        write_indexed_png(folder / f"segmentation_{t:05d}.png", np.maximum(seen.instance, 0).astype(np.uint8))
        yield seen.rgb


def distance_over_depth(camera: CameraTrack) -> Array:
    """[H,W] distance to the camera's centre over depth along its axis, at pixel centres."""
    y, x = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(camera.K[0]).T
    return np.asarray(np.linalg.norm(rays, axis=-1))


def camera_document(camera: CameraTrack, scene: Scene) -> dict[str, Any]:
    """A view's JSON: Blender's axes (y up, z backward), quaternions w x y z, K normalised with y and z negated."""
    blender = camera.c2w[:, :3, :3] * (1.0, -1.0, -1.0)
    K = np.diag([1 / camera.width, 1 / camera.height, 1.0]) @ camera.K[0] @ np.diag([1.0, -1.0, -1.0])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = blender[0], camera.c2w[0, :3, 3]
    about = {
        "resolution": [camera.width, camera.height],
        "frame_rate": int(RATE),
        "step_rate": 240,
        "gravity": [0, 0, -10.0],
        "num_frames": len(camera),
        "num_instances": len(scene.instances) - 1,
    }
    lens = {"focal_length": 32.0, "sensor_width": 32.0, "field_of_view": float(2 * np.arctan(0.5 / FOCAL))}
    poses = {
        "positions": camera.c2w[:, :3, 3].tolist(),
        "quaternions": [list(quaternion(rotation)) for rotation in blender],
        "K": K.tolist(),
        "R": matrix.tolist(),
    }
    return {"scene": about, "camera": lens | poses, "instances": [{"asset_id": name} for name in scene.instances[1:]]}
