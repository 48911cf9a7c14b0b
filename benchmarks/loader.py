"""python -m benchmarks.loader: reading SynCamVideo-layout shards, 36 views a sample of which 4 are wanted, with two workers.

members  the members of 4 views without decoding, beside the official `webdataset` reader over the same shards, the same 4 views
decode   batches with every frame of 4 views, beside two processes that only decode members which they have in memory

Both once from files and once through a web server in a process of its own, with 30 ms before every answer. webdataset streams each
shard with one request (urllib) and is told to skip the members that are not wanted. The bytes stay in the worker that read them, on
both sides, as that is where they would be decoded.
Rates are counted over a few seconds, after a second of running that does not count: workers are started, queues are full, files lie
in the page cache. Ours and the baseline run in turns; each figure is the median.
"""

import argparse
import contextlib
import io
import itertools
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.server import RangeServer
from benchmarks.table import print_table
from pipeline.curate import main as curate
from pipeline.loader.catalog import Catalog
from pipeline.loader.draw import Draw
from pipeline.loader.fetch import Counters, Store
from pipeline.loader.frames import decode
from pipeline.loader.loader import Loader, worker_context
from pipeline.loader.order import Order
from pipeline.loader.sample import needed
from pipeline.loader.settings import LoaderSettings
from pipeline.studio import write_layout

WORKERS = 2
CAMERAS, VIEWS = 36, 4
LATENCY_S = 0.03
VIDEO_BYTES = 420_000  # the mean of the published videos
RECIPE = """
name: benchmark
units: {size: 4}
shards: {target_mb: SHARD_MB}
sources:
  syncamvideo: {license: apache-2.0, stages: [{view_angles: {angle: parallax}}]}
"""


@dataclass(frozen=True)
class Plan:
    """size: (width, height) of the footage; target: (H, W) of the batches; batch, decoded: samples of a step, by measurement."""

    scenes: int
    frames: int
    size: tuple[int, int]
    target: tuple[int, int]
    seconds: float
    repeats: int
    shard_mb: float = 64
    batch: int = 16
    decoded: int = 1


FULL = Plan(scenes=24, frames=100, size=(720, 480), target=(384, 672), seconds=8.0, repeats=5)
QUICK = Plan(scenes=4, frames=20, size=(240, 160), target=(96, 160), seconds=1.0, repeats=1, shard_mb=0.5, batch=4)


def make_shards(work: Path, plan: Plan) -> Path:
    """SynCamVideo v1 of copies of one scene, its videos re-filled to the published size, through pipeline.curate."""
    footage = work / "footage"
    write_layout("syncamvideo-v1", footage, scenes=1, cameras=CAMERAS, frames=2, size=(64, 64))
    videos, cameras = footage / "train" / "videos", footage / "train" / "cameras"
    for number, video in enumerate(sorted((videos / "scene1").iterdir())):
        film(video, plan, number)
    for number in range(2, plan.scenes + 1):
        shutil.copytree(videos / "scene1", videos / f"scene{number}")
        (cameras / f"scene{number}").mkdir()
        shutil.copy(cameras / "scene1" / "scene1.json", cameras / f"scene{number}" / f"scene{number}.json")
    (work / "recipe.yaml").write_text(RECIPE.replace("SHARD_MB", str(plan.shard_mb)))
    arguments = [str(work / "recipe.yaml"), f"--input=syncamvideo={footage}", f"--output={work / 'out'}", "--quiet", "--workers=2"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = curate(arguments)
    if code != 0:
        raise RuntimeError(f"pipeline.curate ended with {code}")
    shutil.rmtree(footage)
    return work / "out"


def film(path: Path, plan: Plan, seed: int) -> None:
    """A moving texture at the bit rate of the published videos."""
    width, height = plan.size
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, ((height + plan.frames) // 4 + 1, (width + 2 * plan.frames) // 4 + 1, 3), np.uint8)
    texture = np.kron(texture, np.ones((4, 4, 1), np.uint8))
    scale = width * height * plan.frames / (720 * 480 * 100)
    rate = int(VIDEO_BYTES * scale * 8 * 15 / plan.frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"preset": "veryfast", "b": str(rate)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for frame in range(plan.frames):
            picture = np.ascontiguousarray(texture[frame : frame + height, 2 * frame : 2 * frame + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def settings_of(plan: Plan, batch: int) -> LoaderSettings:
    return LoaderSettings(
        batch=batch, views=VIEWS, frames=plan.frames, size=plan.target, mix={"multiview_video": 1.0}, curriculum=(), first_view="random"
    )


class Members(IterableDataset):
    """Ours without decoding: (bytes that came for each sample of a step, counters), by draw and range."""

    def __init__(self, location: str, settings: LoaderSettings) -> None:
        self.catalog, self.settings = Catalog.open(location), settings

    def __iter__(self) -> Iterator[tuple[list[int], Counters]]:
        worker = get_worker_info()
        store, order = Store(self.catalog.location), Order(self.catalog, self.settings)
        for step in itertools.count(worker.id, worker.num_workers):
            store.counters = Counters()
            wanted = [video_members(self.catalog, self.settings, draw) for draw in order.draws(step)]
            data = iter(store.fetch([member for members in wanted for member in members]))
            yield [sum(len(next(data)) for _ in members) for members in wanted], store.counters


def video_members(catalog: Catalog, settings: LoaderSettings, draw: Draw) -> list[Any]:
    return [member for member in needed(catalog, settings, draw) if member.name.startswith("view")]


def picked(catalog: Catalog, settings: LoaderSettings) -> dict[str, frozenset[str]]:
    """Sample id -> names of the members that the first draw of the sample takes."""
    found: dict[str, frozenset[str]] = {}
    order = Order(catalog, settings)
    for step in itertools.count():
        for draw in order.draws(step):
            names = frozenset(member.name for member in video_members(catalog, settings, draw))
            found.setdefault(catalog.sample_id(draw.sample), names)
        if len(found) == len(catalog):
            return found
    raise AssertionError("unreachable")


def wanted_of(name: str, picks: Mapping[str, frozenset[str]]) -> bool:
    key, _, member = name.partition(".")
    return member in picks[key]


def without_pipes(url: str, mode: str = "rb", bufsize: int = 8192) -> Any:
    return urllib.request.urlopen(url)


def official(urls: list[str], picks: Mapping[str, frozenset[str]]) -> Iterable[int]:
    """The members of each sample by webdataset's reader, over and over."""
    wds.gopen_schemes["http"] = without_pipes  # its own would run curl
    dataset = wds.WebDataset(urls, shardshuffle=False, select_files=partial(wanted_of, picks=picks)).repeat()
    return DataLoader(dataset.map(only_members), batch_size=None, num_workers=WORKERS, collate_fn=as_it_is)


def only_members(sample: dict[str, Any]) -> int:
    return sum(len(value) for name, value in sample.items() if name.startswith("view"))


def as_it_is(item: Any) -> Any:
    return item


def rate(items: Iterable[Any], seconds: float, weigh: Callable[[Any], int]) -> float:
    """Samples a second, after a second that does not count. Begins and ends after as many items from each worker, since items
    that were begun at the same time also come at the same time.
    """
    source = iter(items)
    begun = time.perf_counter()
    for _ in take_turns(begun + 1.0):
        next(source)
    started, samples = time.perf_counter(), 0
    for _ in take_turns(started + seconds):
        samples += weigh(next(source))
    spent = time.perf_counter() - started
    del source
    return samples / spent


def take_turns(until: float) -> Iterator[int]:
    """One by one, at least one for each worker, and a whole number of rounds."""
    for number in itertools.count():
        if number and number % WORKERS == 0 and time.perf_counter() >= until:
            return
        yield number


def in_turns(ours: Callable[[], float], baseline: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Median rates."""
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        figures[0].append(ours())
        figures[1].append(baseline())
    return statistics.median(figures[0]), statistics.median(figures[1])


@dataclass
class Volume:
    """Mega-bytes a sample: what the four members hold, what ours reads, what the official reader reads."""

    needed: float
    ours: float
    official: float


def bench_members(location: str, plan: Plan, shards: list[tuple[str, int]]) -> tuple[float, float, Volume]:
    settings = settings_of(plan, plan.batch)
    dataset = Members(location, settings)
    catalog, total = dataset.catalog, Counters()
    picks = picked(catalog, settings)
    urls = [f"{location}/shards/{name}" for name, _ in shards]

    def weigh(item: tuple[list[int], Counters]) -> int:
        nonlocal total
        total += item[1]
        return len(item[0])

    def ours() -> float:
        context = worker_context(location)
        loader = DataLoader(dataset, batch_size=None, num_workers=WORKERS, collate_fn=as_it_is, multiprocessing_context=context)
        return rate(loader, plan.seconds, weigh)

    figures = in_turns(ours, lambda: rate(official(urls, picks), plan.seconds, lambda item: 1), plan.repeats)
    by_sample = sum(size for _, size in shards) / len(catalog) / 1e6
    wanted = sum(
        member.size for i in range(len(catalog)) for member in catalog.members(i).values() if member.name in picks[member.sample_id]
    )
    share = wanted / len(catalog) / 1e6
    return *figures, Volume(share, share * total.bytes_read / total.bytes_asked, by_sample)


_held: list[list[bytes]] = []


def hold(samples: list[list[bytes]]) -> None:
    _held[:] = samples


def decode_held(job: tuple[int, int, tuple[int, int]]) -> int:
    """Decode one sample that is in this process's memory, as the loader does."""
    number, frames, size = job
    for data in _held[number % len(_held)]:
        decode(data, range(frames), size)
    return 1


def bench_decode(location: str, plan: Plan) -> tuple[float, float]:
    settings = settings_of(plan, plan.decoded)
    catalog = Catalog.open(location)
    order, store = Order(catalog, settings), Store(location)
    draws = [draw for step in range(2 * WORKERS) for draw in order.draws(step)]
    samples = [store.fetch(video_members(catalog, settings, draw)) for draw in draws]

    def ours() -> float:
        return rate(Loader(catalog, settings, workers=WORKERS), plan.seconds, lambda step: sum(len(batch.slots) for batch in step))

    def baseline() -> float:
        with get_context("spawn").Pool(WORKERS, hold, (samples,)) as pool:
            jobs = ((number, plan.frames, plan.target) for number in itertools.count())
            return rate(bounded(pool, jobs), plan.seconds, int)

    return in_turns(ours, baseline, plan.repeats)


def bounded(pool: Any, jobs: Iterator[Any]) -> Iterator[int]:
    """Results in order, with two jobs a process under way: Pool.imap would take in endless jobs at once."""
    waiting = [pool.apply_async(decode_held, (next(jobs),)) for _ in range(2 * WORKERS)]
    while True:
        yield waiting.pop(0).get()
        waiting.append(pool.apply_async(decode_held, (next(jobs),)))


def serve(folder: str, latency_s: float, connection: Any) -> None:
    """A process of its own, until the other end closes."""
    with RangeServer(Path(folder), latency_s) as server:
        connection.send(server.url)
        with contextlib.suppress(EOFError):
            connection.recv()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(str(folder), LATENCY_S, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.close()
        process.join(10)


def measure(folder: Path, plan: Plan) -> None:
    shards = [(path.name, path.stat().st_size) for path in sorted((folder / "shards").iterdir())]
    size = sum(size for _, size in shards) / 1e6
    width, height = plan.size
    print(f"{plan.scenes} samples of {CAMERAS} views, {VIEWS} wanted; {plan.frames} frames of {width}x{height}; {len(shards)} shards, ")
    print(f"{size:.0f} MB; {WORKERS} workers; steps of {plan.batch} samples (members) and {plan.decoded} (decoding to ")
    print(f"{plan.target[1]}x{plan.target[0]}); medians of {plan.repeats} runs of {plan.seconds:g} s, in turns\n")
    rows, volumes = [], []
    with served(folder) as url:
        for where, location in (("files", str(folder)), (f"server, {LATENCY_S * 1000:.0f} ms", url)):
            ours, baseline, volume = bench_members(location, plan, shards)
            volumes.append((where, volume))
            rows.append((f"members, {where}", f"{ours:.1f} samples/s", "webdataset", f"{baseline:.1f} samples/s", ours / baseline, 4.0))
            ours, baseline = bench_decode(location, plan)
            rows.append((f"decoded, {where}", f"{ours:.2f} samples/s", "decode alone", f"{baseline:.2f} samples/s", ours / baseline, 0.85))
    print_table(rows)
    print("\n| MB a sample | needed | read by ours | read by webdataset |")
    print("|---|---|---|---|")
    for where, volume in volumes:
        print(f"| {where} | {volume.needed:.2f} | {volume.ours:.2f} | {volume.official:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small footage, short runs: whether it works, not how fast")
    parser.add_argument("--repeats", type=int, help="runs of each side")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="also write the tables here")
    parser.add_argument("--work", type=Path, help="a folder for footage and shards (default: a temporary one)")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    if options.repeats:
        plan = Plan(**{**vars(plan), "repeats": options.repeats})
    text = io.StringIO()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = make_shards(Path(name), plan)
        with contextlib.redirect_stdout(text):
            measure(folder, plan)
    print(text.getvalue(), end="")
    if options.output:
        options.output.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
