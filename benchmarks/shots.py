"""python -m benchmarks.shots: how well cuts are found on footage whose cuts are known, and what finding them costs.

Studio clips of every kind are joined hard, some of them two cameras on one scene; with --real also stretches of real recordings
(PARALLAX_REAL_DATA). The rate is that of the whole stage, decode included, beside 1/(1/model + 1/decode).
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured import in_turns
from benchmarks.table import print_table
from pipeline.studio.layouts.clips import noisy
from pipeline.studio.render import paint
from pipeline.studio.scene import Scene as World
from pipeline.studio.trajectories import dolly, handheld, hold, orbit, scattered, walk, zoom
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import RoomSize, plaza, room
from schemas.camera import intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.media import Media
from stages.perception.results import Image
from stages.perception.transnet import HEIGHT, WIDTH, TransNet
from stages.perception.weights import find
from stages.sample_shots import Shots, ShotsConfig, shots_between

RATE = 24.0
TOLERANCE = 1  # frames that a cut may be found early or late
LIMIT_F1 = 0.95
LIMIT_RATE = 0.85
REAL = (*(f"sav_videos/{name}.mp4" for name in ("01_dog", "03_blocks", "05_default_juggle")), "decode/carphone_pristine.mp4",
        *(f"pose2sim_single/videos/cam0{k}.mp4" for k in range(1, 5)))  # fmt: skip


def studio_shot(number: int, frames: int, size: tuple[int, int], world: World | None = None) -> Iterator[Image]:
    """One uncut clip: rooms and squares, fixed, orbiting, walking, zooming and handheld cameras, with sensor noise."""
    rng = np.random.default_rng([number, 11])
    kind = number % 5
    if world is None:
        world = room(number) if kind == 2 else plaza(number, "moving" if rng.random() < 0.7 else "still", movers=2)
    path = {
        0: lambda: hold(scattered(rng, 1)[0], frames),
        1: lambda: handheld(rng, orbit(rng, frames, 0.5 * frames), RATE, 1.2, 0.03),
        2: lambda: walk(rng, frames, RATE, RoomSize()),
        3: lambda: handheld(rng, dolly(rng, frames), RATE, 1.2, 0.03),
        4: lambda: hold(scattered(rng, 1)[0], frames),
    }[kind]()
    focal = 0.95 * size[0] * (zoom(frames, 1.5) if kind == 4 else np.ones(frames))
    K = [intrinsics(f, f, size[0] / 2, size[1] / 2)[0] for f in focal]
    pictures = (paint(world, t / RATE, path[t], K[t], size) for t in range(frames))
    return noisy(pictures, rng)


def studio_footage(shots: int, seed: int, size: tuple[int, int] = (4 * WIDTH, 4 * HEIGHT)) -> tuple[list[Image], list[int]]:
    """Joined shots of 12 to 60 frames, and the last frame of each but the last. Every fourth cut stays on one scene."""
    rng = np.random.default_rng([seed, 12])
    frames: list[Image] = []
    cuts: list[int] = []
    world = None
    for number in range(shots):
        again = number % 4 == 3
        world = world if again else (plaza(1000 * seed + number) if number % 4 == 2 else None)
        own = 1000 * seed + number
        chosen = own - own % 5 if world is not None else own  # a fixed camera, wherever it now stands
        frames += studio_shot(chosen + 5 * again, int(rng.integers(12, 61)), size, world)
        cuts.append(len(frames) - 1)
    return frames, cuts[:-1]


def encoded(frames: Sequence[Image], cuts: list[int]) -> tuple[list[Image], list[int]]:
    """The same as H.264, read at TransNetV2's size."""
    with tempfile.TemporaryDirectory() as folder, Media(Path(folder), MediaLimits()) as media:
        write_mp4(Path(folder) / "joined.mp4", frames, Fraction(24))
        view = scene_of(media, "joined.mp4").views[0]
        small = media.stream(view.media, view.index, np.arange(len(frames)), sizes=[(WIDTH, HEIGHT)])
        return [pixels for [pixels] in small], cuts


def real_footage(media: Media, names: Sequence[str] = REAL, rounds: int = 3, length: int = 36) -> tuple[list[Image], list[int]]:
    """Stretches of uncut recordings, taken in turns, at TransNetV2's size; and the last frame of each but the last."""
    scenes = [scene_of(media, name) for name in names]
    frames: list[Image] = []
    cuts: list[int] = []
    for turn in range(rounds):
        for scene in scenes:
            view = scene.views[0]
            each = min(length, len(view.index) // rounds)
            wanted = np.arange(turn * each, (turn + 1) * each)
            frames += [pixels for [pixels] in media.stream(view.media, view.index, wanted, sizes=[(WIDTH, HEIGHT)])]
            cuts.append(len(frames) - 1)
    return frames, cuts[:-1]


def scene_of(media: Media, name: str) -> Scene:
    """A clip below the media's root."""
    about = (Path(media.tree.location) / name).stat()
    ref = MediaRef("video", (MediaFile(name, about.st_size, about.st_mtime_ns),))
    return Scene(Candidate("clips", name, "video", (View("cam", ref),)), (SceneView("cam", ref, media.index(ref)),))


def found_cuts(probabilities: NDArray[np.float32], threshold: float = 0.5) -> list[int]:
    """The last frame of every shot but the last."""
    return [shot.stop - 1 for shot in shots_between(probabilities, threshold)][:-1]


def judged(found: Sequence[int], true: Sequence[int], tolerance: int = TOLERANCE) -> tuple[float, float, float]:
    """Precision, recall and F1; each true cut answers for one found cut at most, in order."""
    left, hits = list(true), 0
    for cut in found:
        match = next((each for each in left if abs(each - cut) <= tolerance), None)
        if match is not None:
            left.remove(match)
            hits += 1
    precision, recall = hits / len(found) if found else 1.0, hits / len(true) if true else 1.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def rates(folder: Path, frames: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Frames a second of the stage, of the model alone and of the decode alone, and the stage's rate as a share of
    1/(1/model + 1/decode). Medians of five rounds in which the three take turns, so that a busy machine disturbs them alike."""
    pictures = list(studio_shot(1, 60, size))
    write_mp4(folder / "long.mp4", (pictures[abs(59 - i % 118)] for i in range(frames)), Fraction(24))
    with Media(folder, MediaLimits()) as media:
        scene = scene_of(media, "long.mp4")
        view, wanted = scene.views[0], np.arange(frames)
        shots, model = Shots(build(ShotsConfig, {"device": "cpu"}, "shots")), TransNet(find("transnetv2").path, device="cpu")
        small = [pixels for [pixels] in media.stream(view.media, view.index, wanted, sizes=[(WIDTH, HEIGHT)])]
        shots.sample(scene, 0, media)  # loads its model
        work: tuple[Callable[[], object], ...] = (
            lambda: shots.sample(scene, 0, media),
            lambda: model.cuts(iter(small)),
            lambda: list(media.stream(view.media, view.index, wanted, sizes=[(WIDTH, HEIGHT)])),
        )
        (stage, alone, decode), share = in_turns(work, 5)
    return frames / stage, frames / alone, frames / decode, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="also real recordings, from PARALLAX_REAL_DATA")
    parser.add_argument("--frames", type=int, default=600, help="of the clip that the rate is taken on")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    model = TransNet(find("transnetv2").path, device="cpu")
    rows: list[tuple[str, str, str, str, float, float]] = []

    def quality(what: str, footage: tuple[list[Image], list[int]]) -> None:
        frames, cuts = footage
        precision, recall, f1 = judged(found_cuts(model.cuts(iter(frames))), cuts)
        rows.append((f"{what}: {len(cuts)} cuts in {len(frames)} frames", f"P {precision:.3f} R {recall:.3f}", "F1", "1", f1, LIMIT_F1))

    quality("studio", encoded(*studio_footage(options.shots, options.seed)))
    if options.real:
        with Media(Path(os.environ["PARALLAX_REAL_DATA"]), MediaLimits()) as media:
            quality("real", real_footage(media))
    with tempfile.TemporaryDirectory() as folder:
        stage, alone, decode, share = rates(Path(folder), options.frames, (options.size[0], options.size[1]))
    bound = 1 / (1 / alone + 1 / decode)
    what = f"{options.size[0]}x{options.size[1]}, {options.threads} thread(s): model {alone:.0f}, decode {decode:.0f} frames/s"
    rows.append((what, f"{stage:.0f} frames/s", "1/(1/model + 1/decode)", f"{bound:.0f} frames/s", share, LIMIT_RATE))
    print_table(rows)


if __name__ == "__main__":
    main()
