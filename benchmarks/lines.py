"""python -m benchmarks.lines: how many line matches are right, how many there could be, and what the stage costs.

accuracy  precision and recall at 3 px of the two defaults that need no hub, where the true map is known: views of flat pictures (studio
          pictures, and with --photos the photographs of a folder), and the two ends of a second of studio footage, by camera path.
          tests/perception/line_pairs.py says what counts as right and as corresponding. Recall is set beside that of one homography
          for all segments, fitted to the same points.
speed     items a second of the stage, beside one after another what it cannot avoid: decoding the frames, and the model
memory    of the stage with "tracks", which looks at every frame, the process's own after 120 and after 240 frames of a clip of 1080p
          footage, each in a process of its own, and the peak; its decoder apart

Ours and the baseline run in turns; each figure is the median. Files are in the page cache for both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.measured import memory_mib
from benchmarks.shots import scene_of
from benchmarks.table import print_table
from pipeline.studio.render import paint
from pipeline.studio.trajectories import on_sphere
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza
from schemas.camera import intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import MediaLimits
from stages.match_lines import LinesConfig, MatchLines, Model
from stages.media import Media
from stages.perception.klt import KltTracker
from stages.perception.lightglue_lines import LightGlueLines, TrackedLines, best_of, likeness, match_through
from stages.perception.lsd import line_segments
from stages.perception.results import Image
from stages.perception.weights import find
from stages.stage import Item
from tests.perception.line_pairs import KINDS, Measured, Pair, homography_pair, measure, studio_clip, studio_pair

SIZE = (1024, 576)
SEED = 1000  # tests and development used others
PRECISION, RECALL, SPEED = 0.95, 0.6, 0.85
GROWTH_MIB = 64

Row = tuple[str, str, str, str, float, float]


def accuracy(pairs: int, photos: Path | None, device: str) -> list[Row]:
    matcher = LightGlueLines(find("aliked").path, find("lightglue-aliked").path, device=device)
    rows: list[Row] = []
    pictures = {"studio pictures": [_flat(SEED + k) for k in range(pairs)]}
    if photos is not None:
        files = sorted(each for each in photos.iterdir() if each.suffix.lower() in {".jpg", ".png"})
        pictures["photographs"] = [np.ascontiguousarray(cv2.imread(str(file))[..., ::-1]) for file in files for _ in range(pairs)]
    for name, shown in pictures.items():
        flat = [homography_pair(picture, SEED + k, SIZE) for k, picture in enumerate(shown)]
        rows += _rows(f"lightglue, homographies of {name}", *_both(flat, matcher))
    studio = [(kind, SEED + k) for kind in KINDS for k in range(pairs)]
    for kind in KINDS:
        rows += _rows(f"lightglue, {kind}", *_both([studio_pair(kind, seed, SIZE) for each, seed in studio if each == kind], matcher))
    for kind in KINDS:
        total = Measured()
        for seed in (seed for each, seed in studio if each == kind):
            pair, found = studio_pair(kind, seed, SIZE), TrackedLines(KltTracker()).follow(studio_clip(kind, seed, SIZE))
            total += measure(pair, found, line_segments(pair.first)[0], line_segments(pair.second)[0])
        rows += _rows(f"tracks, {kind}", total, None)
    return rows


def _both(pairs: Iterable[Pair], matcher: LightGlueLines) -> tuple[Measured, Measured]:
    """Ours, and one homography in the place of what lies near each segment."""
    ours = plain = Measured()
    for pair in pairs:
        first, second = line_segments(pair.first)[0], line_segments(pair.second)[0]
        here, there = matcher.points(pair.first, pair.second)
        ours += measure(pair, match_through(first, second, here, there), first, second)
        H, _ = cv2.findHomography(here, there, cv2.RANSAC, 3.0)
        carried = cv2.perspectiveTransform(first.reshape(-1, 1, 2).astype(np.float64), H).reshape(-1, 2, 2)
        plain += measure(pair, best_of(likeness(carried, second), first, second), first, second)
    return ours, plain


def _rows(what: str, ours: Measured, plain: Measured | None) -> list[Row]:
    precision = f"{ours.precision:.3f} of {ours.matches}"
    recall = f"{ours.recall:.3f} of {ours.corresponding}"
    other = ("one homography", "-", "-") if plain is None else ("one homography", f"{plain.precision:.3f}", f"{plain.recall:.3f}")
    return [
        (f"{what}: precision", precision, other[0], other[1], ours.precision, PRECISION),
        (f"{what}: recall", recall, other[0], other[2], ours.recall, RECALL),
    ]


def _flat(seed: int) -> Image:
    size = (1600, 1000)
    K = intrinsics(1200.0, 1200.0, size[0] / 2, size[1] / 2, 1)[0]
    return paint(plaza(seed, "none"), 0.0, on_sphere(6.0, 10.0, seed * 37.0 % 360), K, size)


def speed(repeats: int, device: str) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Media(Path(folder), MediaLimits()) as media:
        item = _item(Path(folder), media)
        models: tuple[Model, ...] = ("lightglue", "tracks")
        for model in models:
            rows.append(_speed(model, item, media, repeats, device))
    return rows


def _speed(model: Model, item: Item, media: Media, repeats: int, device: str) -> Row:
    stage = MatchLines(LinesConfig(model=model, device=device))
    stage.prepare()
    view = item.scene.views[0]
    [look] = stage.wants(item)
    pictures: list[Image] = []

    def decode() -> None:
        pictures[:] = [shown for [shown] in media.stream(view.media, view.index, look.frames, [look.size])]

    def compute() -> None:
        if model == "tracks":
            stage.follower.follow(iter(pictures))
        else:
            stage.matcher.match(pictures[0], pictures[-1])

    parts: dict[str, Callable[[], object]] = {"decode": decode, "model": compute, "stage": lambda: stage.score(item, media)}
    for part in parts.values():  # models loaded, processes started
        part()
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            spent[name].append(time.perf_counter() - start)
    median = {name: statistics.median(seconds) for name, seconds in spent.items()}
    least = median["decode"] + median["model"]
    what = f"{model}, {len(look.frames)} of 25 frames of {SIZE[0]}x{SIZE[1]}"
    baseline = f"decode {1 / median['decode']:.2f}/s, model {1 / median['model']:.2f}/s"
    return what, f"{1 / median['stage']:.3f} items/s", baseline, f"{1 / least:.3f}", least / median["stage"], SPEED


def memory(height: int | None) -> list[Row]:
    """height: that the frames are matched at; None: at their own."""
    with tempfile.TemporaryDirectory() as name:
        found = []
        for frames in (120, 240):
            write_mp4(Path(name) / f"memory{frames}.mp4", _panned(frames, (1920, 1080)), Fraction(25))
            with get_context("spawn").Pool(1) as alone:
                found.append(alone.apply(_memory_of, (name, frames, height)))
    (short, _), (long, peak) = found
    what = f"tracks, memory after 120 and 240 frames of 1920x1080, at height {height or 1080}"
    limit = f"{GROWTH_MIB} MiB more"
    measured = f"{short:.0f} and {long:.0f} MiB, peak {peak:.0f}"
    return [(what, measured, "limit", limit, GROWTH_MIB / max(long - short, 0.01), 1.0)]


def _memory_of(folder: str, frames: int, height: int | None) -> tuple[float, float]:
    """MiB that the process has when it has looked at that many frames, and at most had."""
    with Media(Path(folder), MediaLimits()) as media:
        scene = scene_of(media, f"memory{frames}.mp4")
        found = MatchLines(LinesConfig(model="tracks", height=height)).score(Item("clip", "video", scene), media)
        assert found.scores["n_lines"]
    return memory_mib()


def _panned(frames: int, size: tuple[int, int]) -> Iterator[Image]:
    """A studio picture that moves to and fro."""
    width, height = size
    large = cv2.resize(_flat(SEED), (round(1.1 * width), round(1.1 * height)), interpolation=cv2.INTER_LINEAR)
    for number in range(frames):
        place = (1 - np.cos(number / 25)) / 2
        x, y = round(place * (large.shape[1] - width)), round(place * (large.shape[0] - height))
        yield np.ascontiguousarray(large[y : y + height, x : x + width])


def _item(folder: Path, media: Media) -> Item:
    path = folder / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in studio_clip("orbit", SEED, SIZE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    about = path.stat()
    ref = MediaRef("video", (MediaFile(path.name, about.st_size, about.st_mtime_ns),))
    candidate = Candidate("clips", "clip", "video", (View("cam", ref),))
    return Item("clip", "video", Scene(candidate, (SceneView("cam", ref, media.index(ref)),)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["accuracy", "speed", "memory"])
    parser.add_argument("--pairs", type=int, default=3, help="of each kind, and of each photograph")
    parser.add_argument("--photos", type=Path, help="a folder of pictures with straight lines")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    rows: list[Row] = []
    if given.only in (None, "accuracy"):
        rows += accuracy(given.pairs, given.photos, given.device)
    if given.only in (None, "speed"):
        rows += speed(given.repeats, given.device)
    if given.only in (None, "memory"):
        for height in (LinesConfig.height, None):
            rows += memory(height)
    print_table(rows)


if __name__ == "__main__":
    main()
