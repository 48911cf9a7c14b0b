"""python -m benchmarks.memory: what each model of the stages needs of memory, at its true size with random weights where no hub is.

Each case looks at a clip of 1080p footage through its stage, in a process of its own (its decoder, bounded by `media.memory_mb`,
apart): after 120 and after 240 frames where frames come one after another, else once. The peak is the kernel's high-water mark of that
process, its code and weights included. CoTracker's code is looked for as a stage looks for it.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.measured import memory_mib
from benchmarks.motion_rate import footage
from benchmarks.random_checkpoints import write_all
from benchmarks.shots import scene_of
from benchmarks.table import print_table
from pipeline.studio.video import write_mp4
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.media import Media
from stages.perception.weights import find
from stages.registry import stages
from stages.stage import Item, Scorer

GROWTH_MIB = 64
SIZE = (1920, 1080)
# 246 points: as many as CoTracker's own demonstrations follow.
POINTS = {"max_masks": 8, "points_per_mask": 12, "background_points": 150}
SAM = {"points_per_side": 4, "frames": 2}  # the grid's size says how long it takes, not how much it holds: see points_per_batch


@dataclass(frozen=True)
class Case:
    """frames: of the clips, one after the other. limit_gib: of the peak; None where the issue names none."""

    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[int, ...] = (120, 240)
    limit_gib: float | None = 4.0


CASES = {
    "regions + klt": Case("motion", {"every": 1}),
    "cotracker3-online": Case("motion", {"every": 1, "tracker": "cotracker3-online", **POINTS}),
    "cotracker3-offline": Case("motion", {"every": 1, "tracker": "cotracker3-offline", **POINTS}, (120,), 8.0),
    "sam-vit-b": Case("motion", {"masks": "sam-vit-b", **SAM}, (2,), None),
    "sam-vit-h": Case("motion", {"masks": "sam-vit-h", **SAM}, (2,), None),
    "tracks": Case("lines", {"model": "tracks"}),
    "lightglue": Case("lines", {}, (2,)),
    "gluestick": Case("lines", {"model": "gluestick"}, (2,)),
    "dwpose": Case("poses", {"model": "dwpose", "stride": 24}),
}


def measure(name: str, folder: Path, files: Mapping[str, Path]) -> tuple[str, str, str, str, float, float]:
    case = CASES[name]
    found = []
    for frames in case.frames:
        if not (folder / f"clip{frames}.mp4").exists():
            write_mp4(folder / f"clip{frames}.mp4", footage(frames, SIZE), Fraction(24))
        with get_context("spawn").Pool(1) as alone:
            found.append(alone.apply(_memory_of, (name, folder, frames, dict(files))))
    peak = max(each[1] for each in found)
    if len(found) == 2:
        what = f"{name}: after 120 and 240 frames"
        ours, more = f"{found[0][0]:.0f} and {found[1][0]:.0f} MiB, peak {peak / 1024:.2f} GiB", found[1][0] - found[0][0]
        kept = GROWTH_MIB / max(more, 0.01) if case.limit_gib is None else min(GROWTH_MIB / max(more, 0.01), case.limit_gib * 1024 / peak)
        return what, ours, "limit", f"{GROWTH_MIB} MiB more, {case.limit_gib} GiB", kept, 1.0
    what = f"{name}: {case.frames[0]} frames"
    limit = case.limit_gib or peak / 1024
    return what, f"peak {peak / 1024:.2f} GiB", "limit", f"{case.limit_gib} GiB" if case.limit_gib else "none", limit * 1024 / peak, 1.0


def _memory_of(name: str, folder: Path, frames: int, files: Mapping[str, Path]) -> tuple[float, float]:
    """MiB that the process has when it has looked at that many frames, and at most had."""
    import torch

    torch.set_num_threads(1)  # as a unit computes
    case = CASES[name]
    own: dict[str, Any] = {key: str(files[model]) for key, model in _own(case.settings).items()}
    if case.settings.get("model") == "dwpose":
        own["weights"] = [str(files["dwpose-det"]), str(files["dwpose-pose"])]
    made = stages()[case.stage]
    stage = made(build(made.Config, {**case.settings, **own}, case.stage), accept_noncommercial=True)
    assert isinstance(stage, Scorer)
    with Media(folder, MediaLimits()) as media:
        stage.score(Item("clip", "video", scene_of(media, f"clip{frames}.mp4")), media)
    return memory_mib()


def _own(settings: Mapping[str, Any]) -> dict[str, str]:
    """The stage's setting for a checkpoint -> its name, for those of random weights."""
    chosen = {"sam": settings.get("masks", ""), "cotracker": settings.get("tracker", "")}
    found = {key: name for key, name in chosen.items() if name.startswith((key,))}
    return found | ({"gluestick": "gluestick", "superpoint": "superpoint"} if settings.get("model") == "gluestick" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="MODEL", help=", ".join(CASES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), {}
        code = find("cotracker-code", None, accept_noncommercial=True).path
        for sam, cotracker in (("vit_b", "online"), ("vit_h", "offline")):
            files |= write_all(folder / sam, sam, cotracker, code)
        print_table([measure(each, folder, files) for each in given.only])


if __name__ == "__main__":
    main()
