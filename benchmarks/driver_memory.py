"""python -m benchmarks.driver_memory: how the driver's memory grows with the candidates of a run.

The whole command with the process executor on a folder of small files, each a clip, with a stage that does nothing: discovery, plan, units,
harvest, shards and tables, without the report. The peak is the kernel's high-water mark of the process that drives, a fresh one for each
size; its workers apart. Shards have as many megabytes as some thousands of these clips: one of 512 MB would hold them all, where it holds
hundreds of real ones, and it is one row of the `shards` table, which is made whole (`--shard-mb 512` shows that). `--scenes N` measures
discovery alone of N scenes of 300 pictures each, in the layout of DL3DV.
"""

import argparse
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measured import memory_mib
from benchmarks.rerun import RECIPE, make_footage
from benchmarks.table import print_table

MOST_MB = 100.0
MB = 1e6 / 2**20  # in MiB
PICTURES = 300


def peak_of_run(folder: Path) -> tuple[float, float]:
    """MiB at the start, and at most."""
    from pipeline.curate import main

    before, _ = memory_mib()
    arguments = [str(folder / "recipe.yaml"), f"--input=files={folder / 'in'}", f"--output={folder / 'out'}", "--quiet", "--no-report"]
    if main(arguments) != 0:
        raise RuntimeError("the run did not go through")
    return before, memory_mib()[1]


def peak_of_discovery(folder: Path) -> tuple[float, float]:
    from pipeline.binding import bind
    from pipeline.plan import discover
    from schemas.recipe import parse_recipe
    from stages.storage import Tree

    source = bind(parse_recipe({"name": "scenes", "sources": {"dl3dv": {"license": "CC0", "stages": []}}}))["dl3dv"]
    before, _ = memory_mib()
    found = discover(source, Tree(folder), None, (), {})
    after, _ = memory_mib()
    if any(candidate.error or not candidate.views for candidate in found):
        raise RuntimeError(f"not every scene was found whole: {found[0].error}")
    return before, after


def make_scenes(folder: Path, count: int) -> None:
    for number in range(count):
        scene = folder / "1K" / f"{number:064x}"
        (scene / "images_4").mkdir(parents=True)
        (scene / "transforms.json").write_text("{}")
        for picture in range(PICTURES):
            (scene / "images_4" / f"frame_{picture + 1:05d}.png").write_bytes(b"picture")


def alone(measure: str, folder: Path) -> tuple[float, float]:
    with get_context("spawn").Pool(1) as pool:
        found: tuple[float, float] = pool.apply(globals()[measure], (folder,))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs=2, default=(1_000, 100_000), metavar="N")
    parser.add_argument("--unit", type=int, default=50, help="candidates in a unit (default: 50)")
    parser.add_argument("--shard-mb", type=float, default=16.0, help="size of a shard; clips have 2 kB each (default: 16)")
    parser.add_argument("--scenes", type=int, metavar="N", help="instead: discovery of N scenes of pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.scenes:
            make_scenes(Path(name), given.scenes)
            before, after = alone("peak_of_discovery", Path(name))
            grown = (after - before) / MB
            print(f"{given.scenes} scenes of {PICTURES} pictures: {grown:.0f} MB more, {1000 * grown / given.scenes:.0f} kB a scene")
            return 0
        peaks = []
        for count in given.candidates:
            folder = Path(name) / str(count)
            make_footage(folder / "in", count)
            (folder / "recipe.yaml").write_text(RECIPE + f"units: {{size: {given.unit}}}\nshards: {{target_mb: {given.shard_mb}}}\n")
            before, peak = alone("peak_of_run", folder)
            print(f"{count} candidates in units of {given.unit}: {before / MB:.0f} MB at the start, {peak / MB:.0f} MB at most", flush=True)
            peaks.append(peak / MB)
    few, many = given.candidates
    grown = peaks[1] - peaks[0]
    print()
    print_table([(f"memory of the driver, {few} to {many}", f"{grown:.0f} MB more", "at most", f"{MOST_MB:.0f} MB", MOST_MB / grown, 1.0)])
    return 0 if grown <= MOST_MB else 1


if __name__ == "__main__":
    sys.exit(main())
