"""The interactive view of a scene's cameras: what camera_view.js draws, as JSON, and a page of its own for one scene."""

import json
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.assets import BRAND, THEME, asset, embedded, policy
from pipeline.report.camera_files import CameraFile
from schemas.camera import Array, CameraTrack

MOST_VIEWS = 400
MOST_POSES = 20_000  # over all views
_SPREAD = 0.02  # mean squared sine between the cameras' x axes, about 8 degrees: less does not tell which way is up


def scene_json(cameras: CameraFile, title: str, most_views: int = MOST_VIEWS, most_poses: int = MOST_POSES) -> dict[str, Any]:
    """What camera_view.js takes, ready for JSON.

    Of more than `most_views` views and of more than `most_poses` poses, some are drawn, spread evenly; `shown` says how many.
    views: each with poses [T][12] (rotation by rows, position; a static camera has one), K [T or 1][4] (fx fy cx cy), frames [T].
    """
    names = list(cameras.tracks)
    chosen = [names[i] for i in spread(len(names), most_views)]
    per_view = max(1, most_poses // len(chosen))
    tracks = [cameras.tracks[name] for name in chosen]
    up, told = up_vector(list(cameras.tracks.values()))
    frames = max(1 if is_static(track) else len(track) for track in tracks)
    views = [_view(name, cameras.tracks[name], cameras.frames[name], per_view) for name in chosen]
    return {
        "title": title,
        "metric": all(track.scale == "metres" for track in tracks),
        "up": [_short(x) for x in up],
        "upFrom": told,
        "views": views,
        "shown": {"views": len(chosen), "ofViews": len(names), "poses": min(frames, per_view), "ofPoses": frames},
    }


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0..count-1, evenly, with the first and the last."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))] if count else []


def _view(name: str, track: CameraTrack, frames: NDArray[np.int64], most: int) -> dict[str, Any]:
    at = [0] if is_static(track) else spread(len(track), most)
    poses, K = track.c2w[at], track.K[at]
    same = bool((K[0] == K).all())
    return {
        "name": name,
        "size": [track.width, track.height],
        "poses": [[_short(x) for x in (*pose[:3, :3].ravel(), *pose[:3, 3])] for pose in poses],
        "K": [[_short(x) for x in (k[0, 0], k[1, 1], k[0, 2], k[1, 2])] for k in (K[:1] if same else K)],
        "frames": [int(frames[i]) for i in at],
        "distortion": [_short(x) for x in track.distortion],
    }


def is_static(track: CameraTrack) -> bool:
    return bool((track.c2w == track.c2w[0]).all() and (track.K[0] == track.K).all())


def _short(value: float) -> float:
    """Six digits, as published files have; -0.0 becomes 0."""
    return float(f"{value:.6g}") + 0.0


def up_vector(tracks: list[CameraTrack]) -> tuple[Array, str]:
    """[3] unit vector, and where it is from: the file, or the cameras, which are taken to be held level (ours).

    The direction across all x axes, where they differ; else the mean of what is up in the pictures. Towards that, either way.
    """
    known = next((track.up for track in tracks if track.up is not None), None)
    if known is not None:
        return np.asarray(known, np.float64), "known from the source"
    poses = np.concatenate([track.c2w for track in tracks])
    mean = -poses[:, :3, 1].mean(axis=0)
    values, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", poses[:, :3, 0], poses[:, :3, 0]) / len(poses))
    if values[1] - values[0] > _SPREAD:
        across = vectors[:, 0] * (1.0 if vectors[:, 0] @ mean >= 0 else -1.0)
        return across, "guessed: the cameras are taken to be level"
    length = float(np.linalg.norm(mean))
    return (mean / length if length > 0.1 else np.array([0.0, -1.0, 0.0])), "guessed: upward in the pictures"


def facts(cameras: CameraFile) -> dict[str, str]:
    """What was found, for people: label -> text."""
    tracks = cameras.tracks
    moving = [name for name, track in tracks.items() if not is_static(track)]
    lengths = sorted({len(track) for track in tracks.values()})
    sizes = sorted({f"{track.width}x{track.height}" for track in tracks.values()})
    fov = [float(np.degrees(2 * np.arctan(track.width / (2 * fx)))) for track in tracks.values() for fx in track.K[:, 0, 0]]
    positions = np.concatenate([track.c2w[:, :3, 3] for track in tracks.values()])
    metric = all(track.scale == "metres" for track in tracks.values())
    extent = " x ".join(f"{side:.3g}" for side in np.ptp(positions, axis=0))
    distorted = sum(bool(track.distortion) for track in tracks.values())
    found = {
        "format": cameras.kind,
        "convention": cameras.convention,
        "views": f"{len(tracks)}: {len(tracks) - len(moving)} static, {len(moving)} moving",
        "frames": " to ".join(str(n) for n in dict.fromkeys((lengths[0], lengths[-1]))),
        "pictures": ", ".join(sizes[:4]) + (f" and {len(sizes) - 4} more sizes" if len(sizes) > 4 else ""),
        "field of view": " to ".join(dict.fromkeys((f"{min(fov):.1f}", f"{max(fov):.1f}"))) + " degrees across",
        "scale": "metres" if metric else "arbitrary: distances are not metres",
        "extent": f"{extent} {'m' if metric else 'units'}, of all positions",
        "up": f"{' '.join(f'{x:.3f}' for x in up_vector(list(tracks.values()))[0] + 0.0)}, {up_vector(list(tracks.values()))[1]}",
    }
    if distorted:
        found["distortion"] = f"{distorted} of {len(tracks)} views; drawn without it"
    return found | ({"assumed": "; ".join(cameras.notes)} if cameras.notes else {})


def camera_page(cameras: CameraFile, title: str) -> str:
    """One self-contained HTML document with the view of these cameras."""
    style = asset("page.css") + asset("camera_view.css")
    script = asset("theme.js") + asset("camera_view.js") + 'cameraView(document.getElementById("cameras"), embedded("scene"));\n'
    return Template(asset("cameras.html")).substitute(
        policy=escape(policy(style, script)),
        title=escape(title),
        theme=THEME,
        brand=BRAND,
        style=style,
        script=script,
        facts=fact_list(facts(cameras)),
        scene=embedded(json.dumps(scene_json(cameras, title))),
    )


def fact_list(found: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in found.items())
