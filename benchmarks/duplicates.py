"""Finding twins: how well, and how fast: `python -m benchmarks.duplicates [--quick]`.

How well: studio clips, three cameras a world, each changed in five ways (encoded with crf 35, scaled to half, 5 % of white brighter,
without its first two frames, all of these). What was changed must be found, the other cameras of the same world and all of the other
worlds must not. The default limit was chosen on seeds 0-49; seeds 100-149 judge it. How fast: the index over random hashes, a tenth of
them changed by up to the limit, against comparing every pair with numpy.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import print_table
from pipeline.duplicates import HammingIndex
from pipeline.studio.render import paint
from pipeline.studio.trajectories import dolly, handheld, hold, orbit, scattered
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza
from schemas.camera import intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.recipe import Encode, MediaLimits
from stages.fingerprint import Fingerprint, FingerprintConfig
from stages.media import Media
from stages.stage import Item

FITTED, HELD_OUT = range(50), range(100, 150)
SIZE, FRAMES, RATE = (160, 90), 33, Fraction(24)
WHITER = 13  # 5 % of 255
CHANGES = ("crf 35", "half size", "5 % brighter", "2 frames fewer", "all four")

Clip = NDArray[np.uint8]  # [T,H,W,3] RGB
Hashes = NDArray[np.uint64]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="15 seeds of each set, and 100,000 fingerprints instead of a million")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="keep rendered clips here, and take those that are there already")
    parser.add_argument("--only", choices=("accuracy", "speed"), help="one of the two tables")
    given = parser.parse_args(arguments)
    rows = []
    with ExitStack() as stack:
        if given.only != "speed":
            folder = given.clips or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            fitted, held_out = (range(seeds.start, seeds.start + 15) if given.quick else seeds for seeds in (FITTED, HELD_OUT))
            print_distances("chosen on", Prints(fitted, folder))
            rows += print_accuracy(Prints(held_out, folder))
    if given.only != "accuracy":
        rows += print_speed((1_000, 10_000, 100_000) if given.quick else (1_000, 10_000, 100_000, 1_000_000))
    print()
    print_table(rows)
    return 0 if all(ratio >= least for *_, ratio, least in rows) else 1


class Prints:
    """Fingerprints of a set's clips. original [N,F], changed: by change [N,F]; world [N]: its seed."""

    def __init__(self, seeds: range, folder: Path) -> None:
        self.seeds = seeds
        world: list[int] = []
        original: list[list[int]] = []
        changed: dict[str, list[list[int]]] = {name: [] for name in CHANGES}
        with Media(folder, MediaLimits()) as media:
            for seed in seeds:
                for camera, name in enumerate(filmed(seed, folder)):
                    world.append(seed)
                    original.append(fingerprint(name, media))
                    frames = media.frames(*_opened(name, media), np.arange(FRAMES))
                    for change, path in vary(frames, folder / f"changed-{seed}-{camera}", media):
                        changed[change].append(fingerprint(path.relative_to(folder).as_posix(), media))
                        path.unlink()
        self.world = np.array(world)
        self.original: Hashes = np.array(original, np.uint64)
        self.changed: dict[str, Hashes] = {name: np.array(each, np.uint64) for name, each in changed.items()}


def filmed(seed: int, folder: Path) -> Iterator[str]:
    """Files of one world's clips: two cameras on tripods, one that moves."""
    rng = np.random.default_rng([seed, 77])
    moving = (orbit, dolly)[seed % 2](rng, FRAMES)
    paths = [hold(pose, FRAMES) for pose in scattered(rng, 2)] + [handheld(rng, moving, float(RATE), 1.2, 0.03)]
    K = intrinsics(0.95 * SIZE[0], 0.95 * SIZE[0], SIZE[0] / 2, SIZE[1] / 2, 1)[0]
    scene = None
    for number, path in enumerate(paths):
        name = f"world{seed:03d}-cam{number}.mp4"
        if not (folder / name).is_file():
            scene = scene or plaza(seed, "moving", movers=2)
            frames = [paint(scene, t / float(RATE), path[t], K, SIZE) for t in range(FRAMES)]
            write_mp4(folder / f"part-{name}", frames, RATE)
            (folder / f"part-{name}").rename(folder / name)
        yield name


def vary(frames: Clip, stem: Path, media: Media) -> Iterator[tuple[str, Path]]:
    """Every change of a clip, as a file below the root of `media`."""
    half = np.stack([cv2.resize(frame, (SIZE[0] // 2, SIZE[1] // 4 * 2), interpolation=cv2.INTER_AREA) for frame in frames])
    versions = {
        "crf 35": frames,
        "half size": half,
        "5 % brighter": whiter(frames),
        "2 frames fewer": frames[2:],
        "all four": whiter(half)[2:],
    }
    for number, (change, pixels) in enumerate(versions.items()):
        path = stem.with_name(f"{stem.name}-{number}.mp4")
        write_mp4(path, pixels, RATE)
        if change in ("crf 35", "all four"):
            path.write_bytes(media.encode(*_opened(path.name, media), None, Encode(crf=35)))
        yield change, path


def whiter(frames: Clip) -> Clip:
    return np.minimum(frames.astype(np.int16) + WHITER, 255).astype(np.uint8)


def _opened(name: str, media: Media) -> tuple[MediaRef, FrameIndex]:
    status = (Path(media.tree.location) / name).stat()
    ref = MediaRef("video", (MediaFile(name, status.st_size, status.st_mtime_ns),))
    return ref, media.index(ref)


def fingerprint(name: str, media: Media) -> list[int]:
    """The stage's own hashes of a file."""
    ref, index = _opened(name, media)
    scene = Scene(Candidate("clips", name, "video", (View("v", ref),)), (SceneView("v", ref, index),))
    found = Fingerprint(FingerprintConfig()).score(Item(name, "video", scene), media)
    hashes: list[int] = found.fields["fingerprint"]["hashes"]
    return hashes


def distances(a: Hashes, b: Hashes) -> NDArray[np.float64]:
    """Bits that differ, on average over the frames."""
    return np.asarray(np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64) / a.shape[-1])


def others(prints: Prints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of clips from other cameras of the same world, and of all from other worlds'."""
    i, j = np.triu_indices(len(prints.world), 1)
    found, same = distances(prints.original[i], prints.original[j]), prints.world[i] == prints.world[j]
    return found[same], found[~same]


def print_distances(title: str, prints: Prints) -> None:
    print(f"\nBits that differ of 64, mean over the frames; limit {title} seeds {prints.seeds.start}-{prints.seeds.stop - 1}\n")
    print("| pairs | number | least | 1 % | median | 99 % | most |\n|---|---|---|---|---|---|---|")
    pairs = {name: distances(prints.original, each) for name, each in prints.changed.items()}
    pairs["other camera, same world"], pairs["other world"] = others(prints)
    for name, found in pairs.items():
        figures = " | ".join(f"{value:.2f}" for value in np.quantile(found, (0, 0.01, 0.5, 0.99, 1)))
        print(f"| {name} | {len(found)} | {figures} |")


def print_accuracy(prints: Prints) -> list[tuple[str, str, str, str, float, float]]:
    """Precision and recall of the default limit, over every pair of clips and changed clips."""
    print_distances("judged on", prints)
    limit = FingerprintConfig().max_distance
    assert limit is not None
    right = wrong = 0
    print(f"\n| change, limit {limit:g} | recall | pairs of other clips found |\n|---|---|---|")
    for name, changed in prints.changed.items():
        found = distances(prints.original[:, None], changed[None]) <= limit
        hits, errors = int(found.diagonal().sum()), int(found.sum() - found.diagonal().sum())
        right, wrong = right + hits, wrong + errors
        print(f"| {name} | {hits} of {len(changed)} | {errors} of {found.size - len(changed)} |")
    total = sum(map(len, prints.changed.values()))
    precision, recall = right / max(right + wrong, 1), right / total
    return [
        (f"precision, {right + wrong} pairs found", f"{precision:.4f}", "least", "0.99", precision / 0.99, 1.0),
        (f"recall, {total} changed clips", f"{recall:.4f}", "least", "0.95", recall / 0.95, 1.0),
    ]


def print_speed(counts: tuple[int, ...]) -> list[tuple[str, str, str, str, float, float]]:
    """Seconds to ask for and add every one of N fingerprints of 8 hashes, 50 at a time as units bring them."""
    limit = FingerprintConfig().max_distance
    assert limit is not None
    radius = int(limit * 8)
    print("\n| fingerprints | seconds | microseconds each | MB | pairs found |\n|---|---|---|---|---|")
    each_us = []
    for count in counts:
        hashes = perturbed(count, radius)
        index, pairs, started = HammingIndex(8, radius), 0, time.perf_counter()
        for start in range(0, count, 50):
            batch = hashes[start : start + 50]
            pairs += len(index.near(batch)[0])
            index.add(batch)
        seconds = time.perf_counter() - started
        each_us.append(seconds / count * 1e6)
        print(f"| {count} | {seconds:.1f} | {each_us[-1]:.0f} | {index.nbytes / 1e6:.0f} | {pairs} |")
    started = time.perf_counter()
    for query in hashes[:50]:
        np.flatnonzero(np.bitwise_count(hashes ^ query).sum(axis=1, dtype=np.uint16) <= radius)
    plain = (time.perf_counter() - started) / 50 * 1e6 / 2  # a run compares with half of them on average
    what = f"a fingerprint among {counts[-1]}, us"
    return [(what, f"{each_us[-1]:.0f}", "every pair, numpy", f"{plain:.0f}", plain / each_us[-1], 1.0)]


def perturbed(count: int, radius: int) -> Hashes:
    """[count,8] random hashes, of which a tenth is an earlier one with up to `radius` bits turned."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (count, 8), np.uint64, endpoint=False)
    for i in rng.choice(np.arange(1, count), count // 10, replace=False):
        hashes[i] = hashes[rng.integers(i)]
        for bit in rng.choice(512, rng.integers(radius + 1), replace=False):
            hashes[i, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return hashes


if __name__ == "__main__":
    sys.exit(main())
