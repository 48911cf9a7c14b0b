"""The motion filter's defaults against studio clips whose answer is known: `python -m benchmarks.motion [--quick]`.

Limits are looked for on seeds 0-199 and judged on seeds 1000-1199: AUC of moving against static camera, and of moving against still
subject. Tracks are compared with plain cv2.calcOpticalFlowPyrLK by TAP-Vid's delta_avg, the share of visible points within 1, 2, 4, 8
and 16 pixels at 256 x 256.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import print_table
from stages.filter_motion import MotionConfig, measure
from stages.perception.klt import KltTracker
from stages.perception.regions import RegionSegmenter
from tests.perception.motion_clips import CAMERAS, StudioClip, studio_clip

LEAST_CAMERA, LEAST_SUBJECT = 0.98, 0.95  # AUC
THRESHOLDS = (1, 2, 4, 8, 16)  # pixels at 256 x 256
DISPLACEMENTS = (0.0, 2.0, 8.0, 24.0, np.inf)  # of a point from its place in the first frame, in the same pixels

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """A clip and its two scores."""

    clip: StudioClip
    camera: float
    foreground: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.motion", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 seeds of each set instead of 200")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="keep rendered clips here, and take those that are there already")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables here as well, as Markdown")
    given = parser.parse_args(arguments)
    count = 40 if given.quick else 200
    text = io.StringIO()
    with contextlib.redirect_stdout(_Both(sys.stdout, text)):
        fitted, held_out = judged(range(count), given.clips), judged(range(1000, 1000 + count), given.clips)
        limits = print_limits(fitted)
        print_curves(f"Seeds 0-{count - 1}: limits", fitted, limits)
        print_curves(f"Seeds 1000-{999 + count}: held out", held_out, limits)
        ours, plain = print_tracks(range(1000, 1000 + count, 5), given.clips)
        print("\n## Against the limits that were set\n")
        camera, subject = areas(held_out)
        print_table(
            [
                ("moving against static camera, AUC", f"{camera:.4f}", "least", f"{LEAST_CAMERA}", camera / LEAST_CAMERA, 1.0),
                ("moving against still subject, AUC", f"{subject:.4f}", "least", f"{LEAST_SUBJECT}", subject / LEAST_SUBJECT, 1.0),
                ("delta_avg of tracks", f"{ours:.4f}", "calcOpticalFlowPyrLK", f"{plain:.4f}", ours / plain, 1.0),
            ]
        )
    if given.output is not None:
        given.output.write_text(text.getvalue(), "utf-8")
    return 0 if camera >= LEAST_CAMERA and subject >= LEAST_SUBJECT and ours >= plain else 1


class _Both(io.TextIOBase):
    def __init__(self, *streams: io.TextIOBase) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)


def judged(seeds: range, folder: Path | None) -> list[Judged]:
    """What the default filter says of each clip. No score counts as motion of the camera without end, and as no motion of a subject."""
    found = []
    for seed in seeds:
        clip = studio_clip(seed)
        scores = measure(pictures(clip, folder), RegionSegmenter(), KltTracker(), MotionConfig()).scores()
        camera, foreground = scores["camera_motion"], scores["foreground_motion"]
        found.append(Judged(clip, np.inf if camera is None else camera, 0.0 if foreground is None else foreground))
    return found


def pictures(clip: StudioClip, folder: Path | None) -> Iterator[NDArray[np.uint8]]:
    """The clip's frames, kept in the folder where there is one."""
    if folder is None:
        return clip.frames()
    path = folder / f"{clip.seed}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack(list(clip.frames())))
    return iter(np.load(path))


def auc(high: list[float], low: list[float]) -> float:
    """The chance that one of `high` exceeds one of `low`; a tie is half of one."""
    one, two = np.array(high)[:, None], np.array(low)[None]
    return float((one > two).mean() + (one == two).mean() / 2)


def areas(found: list[Judged]) -> tuple[float, float]:
    """AUC of moving against static camera, and of moving against still subject."""
    camera = auc([each.camera for each in found if each.clip.camera_moves], [each.camera for each in found if not each.clip.camera_moves])
    moving = [each.foreground for each in found if each.clip.subject_moves]
    return camera, auc(moving, [each.foreground for each in found if not each.clip.subject_moves])


def best_limit(high: list[float], low: list[float]) -> float:
    """Where most of `high` lie above and of `low` below: of all such places the middle, in the logarithm."""
    values = np.unique([*high, *low])
    places = np.sqrt(np.maximum(values[:-1], 1e-9) * np.where(np.isfinite(values[1:]), values[1:], values[:-1]))
    right = (np.array(high)[:, None] >= places).mean(axis=0) + (np.array(low)[:, None] < places).mean(axis=0)
    best = np.flatnonzero(right >= right.max() - 1e-12)
    return float(places[best[len(best) // 2]])


def print_limits(found: list[Judged]) -> tuple[float, float]:
    """The best limits on these clips beside the defaults, which are returned."""
    camera = best_limit([e.camera for e in found if e.clip.camera_moves], [e.camera for e in found if not e.clip.camera_moves])
    # Clips that the camera's limit turns away need no second one: the subject's is chosen on tripods.
    still = [e.foreground for e in found if not e.clip.camera_moves and not e.clip.subject_moves]
    subject = best_limit([e.foreground for e in found if not e.clip.camera_moves and e.clip.subject_moves], still)
    default = MotionConfig()
    print("## Limits\n\n| limit | best here | default |\n|---|---|---|")
    print(f"| max_camera_motion | {camera:.4f} | {default.max_camera_motion} |")
    print(f"| min_foreground_motion | {subject:.4f} | {default.min_foreground_motion} |\n")
    return float(default.max_camera_motion or np.inf), float(default.min_foreground_motion or 0.0)


def print_curves(title: str, found: list[Judged], limits: tuple[float, float]) -> None:
    """AUC by camera, quantiles of both scores, and how often the default limits are right."""
    print(f"## {title}\n")
    print("| clips | number | camera_motion, 5/50/95 % | right | foreground_motion, still | moving | AUC | right |")
    print("|---|---|---|---|---|---|---|---|")
    groups = [(kind, [e for e in found if e.clip.camera == kind]) for kind in ("fixed", *CAMERAS)]
    groups += [(f"{name}, all", [e for e in found if e.clip.dull == dull]) for name, dull in (("textured", False), ("dull", True))]
    for name, group in [*groups, ("all", found)]:
        still = [e.foreground for e in group if not e.clip.subject_moves]
        moving = [e.foreground for e in group if e.clip.subject_moves]
        steady = np.mean([(e.camera > limits[0]) == e.clip.camera_moves for e in group])
        right = np.mean([(e.foreground >= limits[1]) == e.clip.subject_moves for e in group])
        area = f"{auc(moving, still):.3f}" if moving and still else ""
        cells = [quantiles([e.camera for e in group]), f"{steady:.1%}", quantiles(still), quantiles(moving), area, f"{right:.1%}"]
        print(f"| {name} | {len(group)} | {' | '.join(cells)} |")
    camera, subject = areas(found)
    print(f"\nMoving against static camera: AUC {camera:.4f}. Moving against still subject: AUC {subject:.4f}.\n")


def quantiles(values: list[float]) -> str:
    return " / ".join(f"{value:.4f}" for value in np.quantile(values, (0.05, 0.5, 0.95), method="nearest")) if values else ""


def print_tracks(seeds: range, folder: Path | None) -> tuple[float, float]:
    """delta_avg of the default tracker and of plain Lucas-Kanade, by displacement; returns both over all points."""
    errors: dict[str, list[Array]] = {"ours": [], "plain": []}
    moved = []
    for seed in seeds:
        clip = studio_clip(seed)
        truth = clip.truth()
        chosen = truth.visible[0, 0]
        xy, visible = truth.pixels[0][:, chosen], truth.visible[0][1:, chosen]
        frames = list(pictures(clip, folder))
        scale = 256 / np.array(clip.size)
        start = xy[0].astype(np.float32)
        for name, got in (("ours", KltTracker().track(iter(frames), start).xy), ("plain", plain_tracks(frames, start))):
            errors[name].append(np.linalg.norm((got - xy)[1:] * scale, axis=2)[visible])
        moved.append(np.linalg.norm((xy - xy[0])[1:] * scale, axis=2)[visible])
    ours, plain, away = (np.concatenate(each) for each in (errors["ours"], errors["plain"], moved))
    print(f"## Tracks: delta_avg on {len(seeds)} clips of seeds {seeds.start}-{seeds.stop - 1}\n")
    print("| moved, pixels at 256 x 256 | points x frames | ours | calcOpticalFlowPyrLK | ours within 1 / 2 / 4 / 8 / 16 px |")
    print("|---|---|---|---|---|")
    for low, high in [*pairwise(DISPLACEMENTS), (0.0, np.inf)]:
        own = (away >= low) & (away < high)
        if own.any():
            shares = " / ".join(f"{(ours[own] < each).mean():.3f}" for each in THRESHOLDS)
            print(f"| {low:g} to {high:g} | {own.sum()} | {delta_avg(ours[own]):.4f} | {delta_avg(plain[own]):.4f} | {shares} |")
    return delta_avg(ours), delta_avg(plain)


def plain_tracks(frames: list[NDArray[np.uint8]], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """cv2.calcOpticalFlowPyrLK with its defaults from frame to frame. [T,N,2]."""
    at, found = (points - 0.5)[:, None], [points]
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for before, now in pairwise(grays):
        at, _, _ = cv2.calcOpticalFlowPyrLK(before, now, at, None)
        found.append(at[:, 0] + 0.5)
    return np.asarray(found, np.float32)


def delta_avg(errors: Array) -> float:
    return float(np.mean([(errors < each).mean() for each in THRESHOLDS]))


if __name__ == "__main__":
    sys.exit(main())
