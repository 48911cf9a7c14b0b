"""A synchronized rig: sceneN/videos/cam01.mp4, ... and a calibration in one of three forms.

json: cameras.json, our schema (stages/ingest/rig_json.py); colmap: sparse/0/{cameras,images}.txt; qualisys:
calibration/Calib.qca.txt. With json and colmap the last of several cameras is handheld and has a pose for every frame.
"""

import json
from collections.abc import Mapping
from fractions import Fraction
from xml.etree import ElementTree

import cv2
import numpy as np

from pipeline.studio.layouts.order import Defaults, Order, camera_track, frame_times, write_text
from pipeline.studio.trajectories import CENTRE, handheld, hold, scattered
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza
from schemas.camera import Array, CameraTrack

DEFAULTS = Defaults(scenes=2, cameras=4, frames=60, size=(256, 144), max_cameras=64)
RATE = Fraction(30)
FOCAL = 0.85  # of the width

Views = Mapping[str, CameraTrack]


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    for number in range(1, order.scenes + 1):
        scene = plaza(order.scene_seed(number), movers=2)
        rng = order.rng(number, 0)
        views = {
            f"cam{k:02d}": camera_track(hold(pose, order.frames), FOCAL * order.size[0], order.size)
            for k, pose in enumerate(scattered(rng, order.cameras), 1)
        }
        if order.calibration != "qualisys" and order.cameras > 1:
            last = list(views)[-1]
            views[last] = camera_track(handheld(rng, views[last].c2w, float(RATE), 1.5, 0.05), FOCAL * order.size[0], order.size)
        folder = order.output / f"scene{number}"
        for path, text in {"json": _json, "colmap": _colmap, "qualisys": _qualisys}[order.calibration](views).items():
            write_text(folder / path, text)
        for name, view in views.items():
            write_mp4(folder / f"videos/{name}.mp4", order.film(scene, view, times), RATE)
        order.write_truth(f"scene{number}", scene, views, times)


def is_static(view: CameraTrack) -> bool:
    return bool((view.c2w == view.c2w[0]).all())


def _json(views: Views) -> dict[str, str]:
    cameras = {
        name: {
            "video": f"{name}.mp4",
            "width": view.width,
            "height": view.height,
            "K": view.K[0].tolist(),
            "c2w": view.c2w[0].tolist() if is_static(view) else view.c2w.tolist(),
        }
        for name, view in views.items()
    }
    document = {"version": 1, "units": "metres", "up": [0, 0, 1], "centre": list(CENTRE), "cameras": cameras}
    return {"cameras.json": json.dumps(document, indent=1) + "\n"}


def _colmap(views: Views) -> dict[str, str]:
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for camera, (name, view) in enumerate(views.items(), 1):
        K = view.K[0]
        cameras.append(f"{camera} PINHOLE {view.width} {view.height} {K[0, 0]:.12g} {K[1, 1]:.12g} {K[0, 2]:.12g} {K[1, 2]:.12g}")
        files = [f"{name}.jpg"] if is_static(view) else [f"{name}/{t + 1:06d}.jpg" for t in range(len(view))]
        for file, w2c in zip(files, np.linalg.inv(view.c2w), strict=False):
            pose = " ".join(f"{value:.15g}" for value in (*quaternion(w2c[:3, :3]), *w2c[:3, 3]))
            images += [f"{len(images) // 2} {pose} {camera} {file}", ""]
    return {"sparse/0/cameras.txt": "\n".join(cameras) + "\n", "sparse/0/images.txt": "\n".join(images) + "\n"}


def quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """(w, x, y, z) of a [3,3] rotation, w >= 0."""
    axis = cv2.Rodrigues(rotation)[0].ravel()
    angle = float(np.linalg.norm(axis))
    x, y, z = axis * (np.sin(angle / 2) / angle) if angle > 1e-12 else axis / 2
    return float(np.cos(angle / 2)), float(x), float(y), float(z)


def _qualisys(views: Views) -> dict[str, str]:
    root = ElementTree.Element("calibration", type="regular", source="studio")
    cameras = ElementTree.SubElement(root, "cameras")
    for name, view in views.items():
        element = ElementTree.SubElement(cameras, "camera", active="1", model="none", serial=name, viewrotation="0")
        extent = {"left": "0", "top": "0", "right": str(view.width - 1), "bottom": str(view.height - 1)}
        for tag in ("fov_marker", "fov_video"):
            ElementTree.SubElement(element, tag, extent)
        axes = (view.c2w[0, :3, :3] * (1.0, -1.0, -1.0)).T  # rows are the camera's axes: x right, y up, z backward
        transform = {axis: repr(float(value)) for axis, value in zip("xyz", 1000 * view.c2w[0, :3, 3], strict=True)}
        transform |= {f"r{row + 1}{column + 1}": repr(float(axes[row, column])) for row in range(3) for column in range(3)}
        ElementTree.SubElement(element, "transform", transform)
        K = view.K[0]
        # Sixty-fourths of a pixel; pixel centres at integers.
        lens = {"focalLengthU": K[0, 0], "focalLengthV": K[1, 1], "centerPointU": K[0, 2] - 0.5, "centerPointV": K[1, 2] - 0.5}
        intrinsic = {key: repr(float(64 * value)) for key, value in lens.items()}
        intrinsic |= {"sensorMinU": "0.0", "sensorMinV": "0.0", "sensorMaxU": str(64 * view.width), "sensorMaxV": str(64 * view.height)}
        none = ("radialDistortion1", "radialDistortion2", "radialDistortion3", "tangentalDistortion1", "tangentalDistortion2", "skew")
        intrinsic |= dict.fromkeys(none, "0.0")
        ElementTree.SubElement(element, "intrinsic", intrinsic)
    ElementTree.indent(root)
    return {"calibration/Calib.qca.txt": ElementTree.tostring(root, encoding="unicode") + "\n"}
