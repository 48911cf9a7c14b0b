"""DAVIS: JPEGImages/480p/<sequence>/00000.jpg, Annotations/480p/<sequence>/00000.png, ImageSets/2017/{train,val}.txt.

Moving figures and crates before a handheld camera; the masks number a sequence's objects from 1. Every third sequence is val.
"""

from fractions import Fraction

import cv2
import numpy as np

from pipeline.studio.layouts.clips import FOCAL, noisy
from pipeline.studio.layouts.indexed_png import write_indexed_png
from pipeline.studio.layouts.order import Defaults, Order, camera_track, frame_times, write_text
from pipeline.studio.trajectories import handheld, orbit
from pipeline.studio.worlds import plaza

DEFAULTS = Defaults(scenes=3, cameras=1, frames=16, size=(192, 108), max_cameras=1)
RATE = Fraction(24)
SHAKE_DEG, SHAKE_M = 0.6, 0.02
QUALITY = 95


def write(order: Order) -> None:
    times = frame_times(order.frames, RATE)
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(order.scenes):
        name = f"plaza-{number + 1:02d}"
        splits["val" if number % 3 == 2 else "train"].append(name)
        scene, rng = plaza(order.scene_seed(number), movers=2), order.rng(number, 0)
        path = handheld(rng, orbit(rng, order.frames, 20.0), float(RATE), SHAKE_DEG, SHAKE_M)
        camera = camera_track(path, FOCAL * order.size[0], order.size)
        pictures, masks = (order.output / part / "480p" / name for part in ("JPEGImages", "Annotations"))
        for folder in (pictures, masks):
            folder.mkdir(parents=True)
        seen = list(order.measure(scene, camera, times))
        for t, picture in enumerate(noisy((frame.rgb for frame in seen), order.rng(number, 1))):
            cv2.imwrite(str(pictures / f"{t:05d}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            write_indexed_png(masks / f"{t:05d}.png", np.maximum(seen[t].instance, 0).astype(np.uint8))
        order.write_truth(name, scene, {"cam": camera}, times)
    for split, names in splits.items():
        write_text(order.output / f"ImageSets/2017/{split}.txt", "".join(f"{name}\n" for name in names))
