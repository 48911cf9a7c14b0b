"""SynCamVideo v1: train/videos/sceneN/<camera>.mp4, train/cameras/sceneN/*.json, val/cameras/Hemi36_*/ (spec section 2.1).

Static cameras, 3:2 frames, 18 mm. Cameras are named C_01_18mm ... as in the published validation sets.
"""

import json
from fractions import Fraction

import numpy as np

from pipeline.studio.layouts.order import Defaults, Order, camera_track, csv_rows, frame_times, write_text
from pipeline.studio.layouts.unreal import FOCAL_V1_MM, focal_pixels, matrix_text
from pipeline.studio.trajectories import hemisphere, hold, on_sphere
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza

DEFAULTS = Defaults(scenes=2, cameras=4, frames=48, size=(240, 160), max_cameras=36)
RATE = Fraction(15)
NAMES = [f"{group}_{number:02d}_18mm" for group in "CAB" for number in range(1, 13)]  # the published order is that of azimuth
VALIDATION = [(4, 15), (5, 30)]  # metres and degrees of the camera-only sets that are written


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    rows = []
    for number in range(1, order.scenes + 1):
        scene = plaza(order.scene_seed(number), movers=1 + number % 2)
        poses = hemisphere(order.rng(number, 0), order.cameras)
        chosen = [NAMES[k * len(NAMES) // order.cameras] for k in range(order.cameras)]
        views = {
            name: camera_track(hold(pose, order.frames), focal_pixels(order.size[0], FOCAL_V1_MM), order.size)
            for name, pose in zip(chosen, poses, strict=True)
        }
        cameras = {name: matrix_text(pose, 12) for name, pose in zip(chosen, poses, strict=True)}
        write_text(order.output / f"train/cameras/scene{number}/scene{number}.json", json.dumps(cameras, indent=4) + "\n")
        for name, view in views.items():
            write_mp4(order.output / f"train/videos/scene{number}/{name}.mp4", order.film(scene, view, times), RATE)
            rows.append((f"videos/scene{number}/{name}.mp4", scene.caption))
        order.write_truth(f"scene{number}", scene, views, times)
    write_text(order.output / "train/metadata.csv", csv_rows(rows))
    for distance, elevation in VALIDATION:
        poses = on_sphere(distance, elevation, 10.0 * (1 + np.arange(36)), centre=(0.0, 0.0, 0.0))
        cameras = {name: matrix_text(pose, 12) for name, pose in zip(NAMES, poses, strict=True)}
        stem = f"Hemi36_{distance}m_{elevation}"
        write_text(order.output / f"val/cameras/{stem}/{stem}.json", json.dumps(cameras, indent=4) + "\n")
