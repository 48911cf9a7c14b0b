"""python -m benchmarks.curation: the whole run on SynCamVideo-layout scenes, beside the bare work that it cannot avoid.

copy    scenes curated without re-encoding, beside two processes that only index, hash and copy the same bytes
decode  the same with every frame of every view decoded and measured, beside two processes that only decode
shards  writing shards with sha256 and fsync, beside `cp`, `sync` and `sha256sum` of the same bytes

Worker processes of both sides are started and warm before the clock. Ours and the baseline run in turns; each figure is
the median. Files are in the page cache for both.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from benchmarks.table import print_table
from pipeline.binding import bind
from pipeline.executors import Executor
from pipeline.executors.factory import make_executor
from pipeline.kept import KeptOfUnit, KeptSamples
from pipeline.parts import members_to_json, part_path
from pipeline.payload import Member
from pipeline.progress import Progress
from pipeline.rows import PART
from pipeline.run import Settings, execute, prepare
from pipeline.shards import pack, plan_shards
from pipeline.store import write_table
from pipeline.studio import write_layout
from schemas.candidate import MediaFile
from schemas.recipe import MediaLimits, Shards, parse_recipe
from stages.media.index import build_index
from stages.storage import Tree

COPY_STAGES = [{"header": {}}, {"sync": {}}, {"view_angles": {}}]
DECODE_STAGES = [*COPY_STAGES, {"quality": {"every": True}}]


def make_scenes(folder: Path, scenes: int, cameras: int, frames: int, size: int) -> Path:
    """A SynCamVideo v2 dataset of `scenes` copies of one scene, its videos re-filled to about 1.3 MB like the real ones."""
    write_layout("syncamvideo-v2", folder, scenes=1, cameras=cameras, frames=frames, size=(64, 64))
    first = next((folder / "train" / "f24_aperture5").iterdir())
    for number, video in enumerate(sorted((first / "videos").iterdir())):
        _film(video, frames, size, number)
    for number in range(2, scenes + 1):
        shutil.copytree(first, first.with_name(f"scene{number}"))
    return folder


def _film(path: Path, frames: int, size: int, seed: int) -> None:
    """A moving texture, encoded at the bit rate of the published videos: 1.3 MB for 81 frames."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(0, 255, (size // 4 + 64, size // 4 + 64, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"preset": "veryfast", "b": f"{int(1.3e6 * 8 * 15 / frames)}"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in range(frames):
            picture = np.ascontiguousarray(texture[frame : frame + size, 2 * frame : 2 * frame + size])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def curate(footage: Path, output: Path, executor: Executor, stages: list[dict[str, object]], unit: int) -> None:
    """One whole run: discover, plan, units, shards, tables, run.json."""
    source = {"license": "apache-2.0", "stages": stages}
    recipe = parse_recipe({"name": "benchmark", "units": {"size": unit}, "shards": {"target_mb": 64}, "sources": {"syncamvideo": source}})
    settings = Settings(recipe, bind(recipe), {"syncamvideo": Tree(footage)}, output)
    progress = Progress(quiet=True)
    result = execute(settings, prepare(settings, progress), executor, threading.Event(), progress)
    if result.state != "done" or result.totals is None or result.totals.errors:
        raise RuntimeError(f"the run did not go through: {result}")


def index_hash_copy(job: tuple[str, str]) -> None:
    source, target = job
    build_index(source, MediaLimits())
    digest = sha256()
    with Path(source).open("rb") as reader, Path(target).open("wb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)


def decode(job: tuple[str, str]) -> None:
    with av.open(job[0]) as container:
        container.streams.video[0].thread_count = 1
        for _ in container.decode(video=0):
            pass


def in_turns(ours: Callable[[], None], baseline: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds of each, after one of each that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for which, function in enumerate((ours, baseline)):
            os.sync()
            started = time.perf_counter()
            function()
            times[which].append(time.perf_counter() - started)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def bench_run(
    work: Path, footage: Path, stages: list[dict[str, object]], bare: Callable[[tuple[str, str]], None], unit: int, repeats: int
) -> tuple[float, float]:
    videos = sorted(footage.rglob("*.mp4"))
    executor = make_executor("process", 2)
    with get_context("spawn").Pool(2) as pool:

        def ours() -> None:
            shutil.rmtree(work / "out", ignore_errors=True)
            curate(footage, work / "out", executor, stages, unit)

        def baseline() -> None:
            shutil.rmtree(work / "copies", ignore_errors=True)
            (work / "copies").mkdir()
            pool.map(bare, [(str(path), str(work / "copies" / f"{i}.mp4")) for i, path in enumerate(videos)], chunksize=8)

        try:
            return in_turns(ours, baseline, repeats)
        finally:
            executor.close()


def bench_shards(work: Path, footage: Path, repeats: int) -> tuple[float, float]:
    videos = sorted(footage.rglob("*.mp4"))
    rows = []
    for number, path in enumerate(videos):
        status = path.stat()
        file = MediaFile(str(path.relative_to(footage)), status.st_size, status.st_mtime_ns)
        members = members_to_json([Member("view00.mp4", file.size, file)])
        rows.append({"sample_id": f"s{number:05d}", "status": "kept", "is_sample": True, "payload_key": f"{number}", "members": members})
    table = pa.Table.from_pylist(rows, schema=pa.schema([PART.field(name) for name in (*rows[0], "split")]))
    kept = KeptSamples()
    part = part_path(work / "packed", "u000000", 16 * "0")
    kept.add(KeptOfUnit.of("syncamvideo", part.name, table))

    def ours() -> None:
        shutil.rmtree(work / "packed", ignore_errors=True)
        write_table(part, table.replace_schema_metadata({"parallax.unit": '{"tar": null}'}))
        for shard in plan_shards(kept, (), Shards(target_mb=64), 0, work / "packed", {"syncamvideo": Tree(footage)}):
            pack(shard)

    def baseline() -> None:
        shutil.rmtree(work / "copies", ignore_errors=True)
        (work / "copies").mkdir()
        names = [str(path) for path in videos]
        subprocess.run(["cp", "--backup=numbered", *names, str(work / "copies")], check=True)
        subprocess.run(["sync", "-f", str(work / "copies")], check=True)
        subprocess.run(["sha256sum", *names], check=True, stdout=subprocess.DEVNULL)

    return in_turns(ours, baseline, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="a folder for footage and outputs (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        footage = make_scenes(work / "full", options.scenes, options.cameras, 81, 1280)
        few = make_scenes(work / "few", min(options.scenes, 6), options.cameras, 81, 1280)
        size = sum(path.stat().st_size for path in footage.rglob("*.mp4")) / 1e6
        videos = len(list(footage.rglob("*.mp4")))
        decoded = len(list(few.rglob("*.mp4")))
        rows = []
        ours, bare = bench_run(work, footage, COPY_STAGES, index_hash_copy, 4, options.repeats)
        rows.append(
            ("curate without re-encoding", f"{size / ours:.0f} MB/s", "index, hash, copy", f"{size / bare:.0f} MB/s", bare / ours, 0.8)
        )
        ours, bare = bench_run(work, few, DECODE_STAGES, decode, 1, options.repeats)
        rows.append(
            (
                "curate, every frame decoded",
                f"{decoded * 81 / ours:.0f} f/s",
                "decode alone",
                f"{decoded * 81 / bare:.0f} f/s",
                bare / ours,
                0.8,
            )
        )
        ours, bare = bench_shards(work, footage, options.repeats)
        rows.append(
            ("write shards, sha256, fsync", f"{size / ours:.0f} MB/s", "cp + sync + sha256sum", f"{size / bare:.0f} MB/s", bare / ours, 0.5)
        )
        print(f"{options.scenes} scenes of {options.cameras} videos, {videos} videos, {size:.0f} MB")
        print(f"decode: {decoded} videos of 81 frames, 1280x1280\n")
        print_table(rows)


if __name__ == "__main__":
    main()
