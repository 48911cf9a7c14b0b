"""RealEstate10K: {train,test}/<clip>.txt with footage as videos, extracted frames, or `.torch` chunks (spec section 2.4).

Own walks: two clips share a video, as on YouTube, and every third video is test; poses are relative to a clip's first
camera, in a unit of the clip's own. Published trajectories: `published.py` furnishes a room around each.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from pipeline.studio.layouts.order import Defaults, Image, Order, camera_track, write_text
from pipeline.studio.layouts.posed_clip import Clip
from pipeline.studio.layouts.published import published_clips
from pipeline.studio.scene import Array
from pipeline.studio.textures import letter
from pipeline.studio.trajectories import handheld, walk
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import RoomSize, room
from schemas.camera import CameraTrack, relative_to

DEFAULTS = Defaults(scenes=6, cameras=1, frames=132, size=(256, 144), max_cameras=1)
RATE = Fraction(30000, 1001)
LEADER = 12  # frames of title card before a video's first clip
CLIPS_PER_VIDEO = 2
_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def write(order: Order) -> None:
    if order.trajectories is None:
        clips = [own_clip(order, number) for number in range(order.scenes)]
    else:
        clips = published_clips(order, order.trajectories)
    for clip in clips:
        if order.footage != "torch":
            write_text(order.output / clip.split / f"{clip.name}.txt", clip.text)
        order.write_truth(clip.name, clip.scene, {"cam": clip.camera}, clip.times)
    {"video": _write_videos, "frames": _write_frames, "torch": _write_chunks}[order.footage](order, clips)


def own_clip(order: Order, number: int) -> Clip:
    """Clip `number` of the generated data set."""
    video_number, part = divmod(number, CLIPS_PER_VIDEO)
    rng = order.rng(number, 0)
    name = "".join(f"{byte:02x}" for byte in rng.integers(0, 256, 8))
    video = "".join(order.rng(video_number, 1).choice(_LETTERS, 11))
    half = (float(rng.uniform(3.2, 4.5)), float(rng.uniform(2.6, 3.4)))
    size = RoomSize((-half[0], half[0]), (-half[1], half[1]), float(rng.uniform(2.5, 3.0)))
    path = handheld(rng, walk(rng, order.frames, float(RATE), size), float(RATE), degrees=0.4, metres=0.01)
    camera = camera_track(path, rng.uniform(0.475, 0.508) * order.size[0], order.size)
    unit = rng.uniform(0.6, 2.0)  # metres; structure from motion knows no scale
    world = relative_to(path, path[0])
    world[:, :3, 3] /= unit
    first = LEADER + part * order.frames
    listed = np.arange(order.frames)
    times_us = np.array([round(1_000_000 * (first + k) / RATE) for k in range(order.frames)], np.int64)
    # The published files have nine decimals, and so has what the other forms of footage store.
    cameras = np.asarray(np.round(camera_rows(camera, np.asarray(np.linalg.inv(world), np.float64)), 9), np.float64)
    split, scene = "test" if video_number % 3 == 2 else "train", room(order.scene_seed(number), size)
    clip = Clip(name, video, split, scene, camera, first, RATE, listed, times_us, cameras, "")
    return replace(clip, text=trajectory_text(clip))


def camera_rows(camera: CameraTrack, w2c: Array) -> Array:
    """[N,18]: fx fy cx cy as shares of width and height, two zeros, w2c by rows."""
    share = np.array([camera.width, camera.height, camera.width, camera.height])
    lens = np.stack([camera.K[:, 0, 0], camera.K[:, 1, 1], camera.K[:, 0, 2], camera.K[:, 1, 2]], axis=1) / share
    return np.concatenate([lens, np.zeros((len(lens), 2)), w2c[:, :3].reshape(-1, 12)], axis=1)


def trajectory_text(clip: Clip) -> str:
    lines = [f"{time} " + " ".join(f"{value:.9f}" for value in row) for time, row in zip(clip.times_us, clip.cameras, strict=True)]
    return "\n".join([watch_url(clip.video), *lines]) + "\n"


def watch_url(video: str) -> str:
    return f"https://www.youtube.com/watch?v={video}"


def _write_videos(order: Order, clips: list[Clip]) -> None:
    """Clips of one video follow each other in it. A published video that has several is cut by clip, and named so."""
    for video, group in groupby(clips, key=lambda clip: clip.video):
        parts = list(group)
        if order.trajectories is None:
            write_mp4(order.output / f"videos/{video}.mp4", _film_with_leader(order, parts), RATE)
            continue
        shared = sum(clip.video == video for clip in clips) > 1
        for clip in parts:
            name = clip.name if shared else video
            write_mp4(order.output / f"videos/{name}.mp4", order.film(clip.scene, clip.camera, clip.times), clip.rate, clip.first)


def _film_with_leader(order: Order, parts: list[Clip]) -> Iterator[Image]:
    yield from [title_card(order.size)] * LEADER
    for clip in parts:
        yield from order.film(clip.scene, clip.camera, clip.times)


def title_card(size: tuple[int, int]) -> Image:
    canvas = np.full((size[1], size[0], 3), (34, 44, 62), np.float32)
    letter(canvas, "HOUSE TOUR", (236, 226, 206), 0.5)
    return canvas.astype(np.uint8)


def _stills(order: Order, clip: Clip) -> Iterator[tuple[int, bytes]]:
    """(microseconds, JPEG) of every listed frame."""
    listed = order.film(clip.scene, clip.camera.at(clip.listed), clip.times[clip.listed])
    for time, image in zip(clip.times_us, listed, strict=True):
        yield int(time), cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _write_frames(order: Order, clips: list[Clip]) -> None:
    for clip in clips:
        folder = order.output / "frames" / clip.split / clip.name
        folder.mkdir(parents=True)
        for time, jpeg in _stills(order, clip):
            (folder / f"{time}.jpg").write_bytes(jpeg)


def _write_chunks(order: Order, clips: list[Clip]) -> None:
    """One chunk a split, as pixelSplat stores them."""
    try:
        import torch
    except ImportError:
        raise ValueError("footage 'torch' needs PyTorch: pip install torch, or take footage 'video' or 'frames'") from None

    for split in sorted({clip.split for clip in clips}):
        scenes = []
        for clip in (each for each in clips if each.split == split):
            jpegs = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for _, jpeg in _stills(order, clip)]
            scenes.append(
                {
                    "key": clip.name,
                    "url": watch_url(clip.video),
                    "timestamps": torch.tensor(clip.times_us.tolist(), dtype=torch.int64),
                    "cameras": torch.tensor(clip.cameras.tolist(), dtype=torch.float32),
                    "images": jpegs,
                }
            )
        path = order.output / split / "000000.torch"
        path.parent.mkdir(parents=True)
        torch.save(scenes, path)
        write_text(Path(path.parent, "index.json"), json.dumps({scene["key"]: path.name for scene in scenes}, indent=2) + "\n")
