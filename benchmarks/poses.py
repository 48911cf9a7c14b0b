"""python -m benchmarks.poses: how many body points are found right, how fast, and in how much memory.

accuracy  PCK@0.1 of the hub-free model on the photos of coco_wholebody (PARALLAX_REAL_DATA): the share of visible body points (COCO's
          17) that lie within a tenth of the longer side of the person's box; people are matched to the ground truth so that most
          points are right, and of whoever is not found all are wrong. By how small the squares are that the detector looks at.
rate      Frames a second of the whole stage on a clip made by panning over one of the photos, decode included, beside
          1/(1/model + 1/decode).
memory    Peak of the process after 120 and after 240 frames of such a clip at 1080p, each in a process of its own.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measured import in_turns, memory_mib
from benchmarks.shots import scene_of
from benchmarks.table import print_table
from pipeline.studio.video import write_mp4
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.detect_poses import HOLISTIC, DetectPoses, PosesConfig
from stages.media import Media
from stages.perception.holistic import HolisticPose
from stages.perception.openpose import COCO
from stages.perception.results import Image
from stages.perception.weights import find
from stages.stage import Item

LIMIT_PCK = 0.8
LIMIT_RATE = 0.85
LIMIT_GROWTH_MIB = 64
SHARE = 0.1  # of the longer side of a person's box


def photos(folder: Path) -> Iterator[tuple[Image, np.ndarray, np.ndarray]]:
    """Pictures, their people's body points [P,17,3] (x, y, 2 where visible) and boxes [P,4] (left, top, width, height)."""
    truth = json.loads((folder / "test_coco_wholebody.json").read_text("utf-8"))
    for about in truth["images"]:
        marked = [each for each in truth["annotations"] if each["image_id"] == about["id"] and each["num_keypoints"]]
        points = np.array([each["keypoints"] for each in marked], np.float64).reshape(-1, 17, 3)
        points[..., :2] += 0.5  # COCO marks pixel numbers
        yield read(folder / about["file_name"]), points, np.array([each["bbox"] for each in marked])


def read(path: Path) -> Image:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)


def counted(model: HolisticPose, folder: Path) -> tuple[int, int, int, int]:
    """Points right, points there, people there, and people found beyond these."""
    from scipy.optimize import linear_sum_assignment

    right = there = people_there = extra = 0
    for image, points, boxes in photos(folder):
        [people] = model.people([image])
        gaps = np.linalg.norm(people.keypoints[:, None, list(COCO)] - points[..., :2], axis=-1)
        visible, scores = points[..., 2] == 2, people.scores[:, None, list(COCO)]
        counts = ((gaps <= SHARE * boxes[:, 2:].max(1)[:, None]) & visible & (scores > 0)).sum(-1)
        rows, columns = linear_sum_assignment(-counts)
        right, there = right + int(counts[rows, columns].sum()), there + int(visible.sum())
        people_there, extra = people_there + len(points), extra + max(0, len(people.keypoints) - len(points))
    return right, there, people_there, extra


def panned(photo: Image, frames: int, size: tuple[int, int]) -> Iterator[Image]:
    """A clip of that size: the photo, enlarged by a tenth, moved to and fro."""
    width, height = size
    large = cv2.resize(photo, (round(1.1 * width), round(1.1 * height)), interpolation=cv2.INTER_AREA)
    for number in range(frames):
        place = (1 - np.cos(number / 12)) / 2
        x, y = int(place * (large.shape[1] - width)), int(place * (large.shape[0] - height))
        yield np.ascontiguousarray(large[y : y + height, x : x + width])


def rates(folder: Path, photo: Image, frames: int, levels: int) -> tuple[float, float, float, float]:
    """Frames a second of the stage, of the model alone and of the decode alone: medians of five rounds in turns. And the median of the
    rounds' ratios, which a busy machine bends least."""
    write_mp4(folder / "rate.mp4", panned(photo, frames, (1280, 720)), Fraction(24))
    with Media(folder, MediaLimits()) as media:
        scene = scene_of(media, "rate.mp4")
        view, wanted = scene.views[0], np.arange(frames)
        stage = DetectPoses(build(PosesConfig, {"stride": 1, "levels": levels}, "poses"))
        pictures = media.frames(view.media, view.index, wanted)
        stage.prepare()
        work: tuple[Callable[[], object], ...] = (
            lambda: stage.score(Item("clip", "video", scene), media),
            lambda: stage.detector.people(pictures),
            lambda: list(media.stream(view.media, view.index, wanted)),
        )
        (whole, model, decode), share = in_turns(work, 5)
    return frames / whole, frames / model, frames / decode, share


def peak_mib(folder: str, frames: int) -> float:
    """Of a process that looks at that many frames of a clip at 1080p, its decoder apart."""
    with Media(Path(folder), MediaLimits()) as media:
        scene = scene_of(media, f"memory{frames}.mp4")
        stage = DetectPoses(build(PosesConfig, {"stride": 1, "levels": 0}, "poses"))
        stage.score(Item("clip", "video", scene), media)
    return memory_mib()[1]


def memory(folder: Path, photo: Image) -> tuple[float, float]:
    """Peaks in MiB after 120 and after 240 frames."""
    found = []
    for frames in (120, 240):
        write_mp4(folder / f"memory{frames}.mp4", panned(photo, frames, (1920, 1080)), Fraction(24))
        with get_context("spawn").Pool(1) as alone:
            found.append(alone.apply(peak_mib, (str(folder), frames)))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("accuracy", "rate", "memory"), help="one of the three")
    parser.add_argument("--frames", type=int, default=24, help="of the clip for the rate (default: %(default)s)")
    arguments = parser.parse_args()
    if "PARALLAX_REAL_DATA" not in os.environ:
        raise SystemExit("PARALLAX_REAL_DATA must name the folder that holds coco_wholebody; see docs of the real recordings")
    real = Path(os.environ["PARALLAX_REAL_DATA"]) / "coco_wholebody"
    photo = read(real / "000000197388.jpg")
    wanted = {"accuracy", "rate", "memory"} if arguments.only is None else {arguments.only}
    rows: list[tuple[str, str, str, str, float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        if "accuracy" in wanted:
            for levels in (0, 1, 2):
                least = LIMIT_PCK if levels == PosesConfig.levels else 0.0
                right, there, people, extra = counted(HolisticPose(*(find(each).path for each in HOLISTIC), levels=levels), real)
                what = f"PCK@{SHARE}, levels {levels}, {people} people{', the default' if least else ''}"
                rows.append((what, f"{right} right, {extra} people too many", "visible points", str(there), right / there, least))
        if "rate" in wanted:
            for levels in (0, 2):
                frames = arguments.frames * (5 if levels == 0 else 1)  # which takes a thirtieth of the time
                stage, model, decode, share = rates(Path(name), photo, frames, levels)
                both = 1 / (1 / model + 1 / decode)
                what = f"stage, 720p, 5 people, levels {levels}"
                baseline = f"{both:.2f} ({model:.2f}, {decode:.0f})"
                rows.append((what, f"{stage:.2f} frames/s", "1/(1/model + 1/decode)", baseline, share, LIMIT_RATE))
        if "memory" in wanted:
            short, long = memory(Path(name), photo)
            growth = max(long - short, 0.01)
            limit = f"{LIMIT_GROWTH_MIB} MiB more"
            rows.append(
                ("peak, 120 and 240 frames of 1080p", f"{short:.0f} and {long:.0f} MiB", "limit", limit, LIMIT_GROWTH_MIB / growth, 1)
            )
    print_table(rows)


if __name__ == "__main__":
    main()
