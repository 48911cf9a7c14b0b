"""Scenes of DL3DV-10K as small as tests want them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.verdict import CandidateError
from stages.storage import Tree

HASHES = [f"{n:064x}" for n in range(0xA0, 0x100)]


def document(frames: int = 3, width: int = 384, height: int = 216) -> dict[str, Any]:
    """A good transforms.json: a camera that moves along x and looks along -z, OpenGL axes."""
    poses = [np.eye(4) for _ in range(frames)]
    for k, pose in enumerate(poses):
        pose[:3, 3] = (0.2 * k, 0.0, 5.0)
    listed = [
        {"file_path": f"images/frame_{k:05d}.png", "transform_matrix": pose.tolist(), "colmap_im_id": k} for k, pose in enumerate(poses, 1)
    ]
    lens = {"fl_x": 0.6 * width, "fl_y": 0.6 * width, "cx": width / 2, "cy": height / 2, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    return {"w": width, "h": height, **lens, "camera_model": "OPENCV", "applied_transform": np.eye(4)[:3].tolist(), "frames": listed}


def write_scene(
    folder: Path, cameras_file: Any = None, size: tuple[int, int] = (96, 54), images: str = "images_4", numbers: Any = (1, 2, 3)
) -> Path:
    """A scene folder; cameras_file: what transforms.json holds, as text or as a document, None for a good one."""
    (folder / images).mkdir(parents=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
        cv2.imwrite(str(folder / images / f"frame_{number:05d}.png"), pixels)
    given = document() if cameras_file is None else cameras_file
    (folder / "transforms.json").write_text(given if isinstance(given, str) else json.dumps(given))
    return folder


def refused(ingest, load, root: Path) -> CandidateError:
    """What the only scene of the folder is refused with, by discovery or by loading."""
    reader = ingest("dl3dv")
    (candidate,) = reader.discover(Tree(root))
    if candidate.error is not None:
        return CandidateError(*candidate.error)
    with pytest.raises(CandidateError) as caught:
        load(reader, root, candidate)
    return caught.value
