"""python -m benchmarks.motion_rate: what the motion filter with its defaults (regions and Lucas-Kanade) costs.

rate    Frames a second that it looks at, of a studio clip, beside one after another what it cannot avoid: decoding the frames at its
        height, and the model on them. At its defaults (64 frames of the clip) and looking at every frame. The three take turns;
        figures are medians, and the ratio is the median of the rounds'.
memory  Of the process after 120 and after 240 frames of a clip of 1080p footage, every frame looked at, each in a process of its own,
        and the peak; its decoder apart.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.measured import in_turns, memory_mib
from benchmarks.shots import scene_of, studio_shot
from benchmarks.table import print_table
from pipeline.studio.video import write_mp4
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.filter_motion import MotionConfig, MotionFilter, measure
from stages.media import Media
from stages.perception.results import Image
from stages.stage import Item

LEAST_RATE = 0.85
GROWTH_MIB = 64
RENDERED = 30  # frames; longer clips go through them to and fro

Row = tuple[str, str, str, str, float, float]


def footage(frames: int, size: tuple[int, int]) -> Iterator[Image]:
    """A studio clip, rendered at a third of that size and enlarged."""
    rendered = list(studio_shot(1, RENDERED, (size[0] // 3, size[1] // 3)))
    for number in range(frames):
        shown = rendered[abs((number + RENDERED - 1) % (2 * RENDERED - 2) - RENDERED + 1)]
        yield np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def rate(folder: Path, frames: int, size: tuple[int, int], rounds: int, **settings: Any) -> Row:
    """Of a clip that lies in the folder."""
    with Media(folder, MediaLimits()) as media:
        item = Item("clip", "video", scene_of(media, "rate.mp4"))
        view = item.scene.views[0]
        stage = MotionFilter(build(MotionConfig, settings, "motion"))
        [look] = stage.wants(item)

        def decoded() -> Iterator[Image]:
            return (pixels for [pixels] in media.stream(view.media, view.index, look.frames, [look.size]))

        shown = list(decoded())
        stage.score(item, media)  # loads its models
        work: tuple[Callable[[], object], ...] = (
            lambda: stage.score(item, media),
            lambda: measure(iter(shown), *stage.models(), stage.config),
            lambda: sum(1 for _ in decoded()),
        )
        seconds, share = in_turns(work, rounds)
    whole, model, decode = (len(look.frames) / each for each in seconds)
    what = f"{len(look.frames)} frames of a clip of {frames}, {size[0]}x{size[1]}: model {model:.1f}, decode {decode:.1f} frames/s"
    return what, f"{whole:.1f} frames/s", "1/(1/model + 1/decode)", f"{1 / (1 / model + 1 / decode):.1f} frames/s", share, LEAST_RATE


def memory(folder: Path, size: tuple[int, int]) -> Row:
    found = []
    for frames in (120, 240):
        write_mp4(folder / f"memory{frames}.mp4", footage(frames, size), Fraction(24))
        with get_context("spawn").Pool(1) as alone:
            found.append(alone.apply(_memory_of, (str(folder), frames)))
    (short, _), (long, peak) = found
    what = f"memory after 120 and 240 frames of {size[0]}x{size[1]}"
    measured = f"{short:.0f} and {long:.0f} MiB, peak {peak:.0f}"
    return what, measured, "limit", f"{GROWTH_MIB} MiB more", GROWTH_MIB / max(long - short, 0.01), 1.0


def _memory_of(folder: str, frames: int) -> tuple[float, float]:
    """MiB that the process has when it has looked at that many frames, and at most had."""
    with Media(Path(folder), MediaLimits()) as media:
        item = Item("clip", "video", scene_of(media, f"memory{frames}.mp4"))
        found = MotionFilter(build(MotionConfig, {"every": 1}, "motion")).score(item, media)
        assert found.scores["tracked_points"]
    return memory_mib()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rate", "memory"))
    parser.add_argument("--frames", type=int, default=240, help="of the clip for the rate (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"), help="of that clip")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), (given.size[0], given.size[1])
        if given.only != "memory":
            write_mp4(folder / "rate.mp4", footage(given.frames, size), Fraction(24))
            rows += [rate(folder, given.frames, size, given.rounds), rate(folder, given.frames, size, given.rounds, every=1)]
        if given.only != "rate":
            rows.append(memory(folder, (1920, 1080)))
    print_table(rows)


if __name__ == "__main__":
    main()
