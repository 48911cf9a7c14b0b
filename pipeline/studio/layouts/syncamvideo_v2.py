"""SynCamVideo v2: train/f24_aperture5/sceneN/{videos/cam01.mp4, cameras/camera_extrinsics.json}, val/basic (spec section 2.1).

Static cameras, square frames, 24 mm, 15 fps. Odd scenes have the published arc, even ones a hemisphere.
"""

import json
from collections.abc import Mapping
from fractions import Fraction

from pipeline.studio.layouts.order import Defaults, Order, camera_track, csv_rows, frame_times, write_text
from pipeline.studio.layouts.unreal import FOCAL_V2_MM, focal_pixels, matrix_text
from pipeline.studio.scene import Array
from pipeline.studio.trajectories import arc, hemisphere, hold
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza

DEFAULTS = Defaults(scenes=2, cameras=4, frames=49, size=(192, 192), max_cameras=10)
RATE = Fraction(15)
LENS = "f24_aperture5"


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    rows = []
    for number in range(1, order.scenes + 1):
        scene = plaza(order.scene_seed(number), movers=number % 3)
        poses = (arc if number % 2 else hemisphere)(order.rng(number, 0), order.cameras)
        views = {
            f"cam{k:02d}": camera_track(hold(pose, order.frames), focal_pixels(order.size[0], FOCAL_V2_MM), order.size)
            for k, pose in enumerate(poses, 1)
        }
        folder = order.output / f"train/{LENS}/scene{number}"
        write_text(folder / "cameras/camera_extrinsics.json", extrinsics({name: view.c2w for name, view in views.items()}))
        for name, view in views.items():
            write_mp4(folder / f"videos/{name}.mp4", order.film(scene, view, times), RATE)
            rows.append((f"{LENS}/scene{number}/videos/{name}.mp4", scene.caption))
        order.write_truth(f"scene{number}", scene, views, times)
    write_text(order.output / "train/metadata.csv", csv_rows(rows))
    basic = {f"cam{k:02d}": hold(pose, order.frames) for k, pose in enumerate(arc(order.rng(0, 1), 10), 1)}
    write_text(order.output / "val/basic/cameras/camera_extrinsics.json", extrinsics(basic))


def extrinsics(c2w: Mapping[str, Array]) -> str:
    """{"frame0": {"cam01": matrix, ...}, ...} rounded to six digits like the published files."""
    frames = len(next(iter(c2w.values())))
    document = {f"frame{t}": {name: matrix_text(poses[t], 6) for name, poses in c2w.items()} for t in range(frames)}
    return json.dumps(document, indent=4) + "\n"
