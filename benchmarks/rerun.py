"""python -m benchmarks.rerun: the same command again when everything is done, as a user waits for it.

A folder of small files, every one a clip with a caption beside it for every tenth, goes once through the command with a stage that does
nothing. Then the same command again and again, each time a process of its own, from its start to its end: finds the files, sees that all
is done, runs no unit, packs no shard. Medians; files are in the page cache, and compiled modules where Python keeps them, as after any
first run. `--profile` prints where a rerun's time goes instead.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import print_table

ROOT = Path(__file__).resolve().parent.parent
MOST_S = 5.0
FILES_A_FOLDER = 200

RECIPE = """\
name: rerun
sources:
  files:
    ingest: benchmarks.noop:Files
    license: CC0
    stages:
      - benchmarks.noop:NoOp
"""


def make_footage(folder: Path, count: int) -> None:
    """`count` files of a few hundred bytes each, no two alike."""
    for number in range(count):
        path = folder / f"day{number // FILES_A_FOLDER:03d}" / f"clip{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(8, "big") * 40)
        if number % 10 == 0:
            path.with_suffix(".txt").write_text(f"caption of clip {number}")


class Command:
    """`python -m pipeline.curate` on a folder; `outcome` is what must not change from one rerun to the next."""

    def __init__(self, work: Path) -> None:
        self.footage, self.output = work / "in", work / "out"
        (work / "recipe.yaml").write_text(RECIPE)
        self._given = [str(work / "recipe.yaml"), f"--input=files={self.footage}", f"--output={self.output}", "--quiet"]

    def run(self, *more: str, interpreter: tuple[str, ...] = ()) -> float:
        """Seconds on the clock."""
        command = [sys.executable, *interpreter, "-m", "pipeline.curate", *self._given, *more]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    def parts(self) -> dict[str, int]:
        """Inode of every part and shard: a unit that ran, or a shard that was packed, has another."""
        return {path.name: path.stat().st_ino for name in ("parts", "shards") for path in (self.output / name).iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="of one rerun without a report, by cumulative time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        command = Command(Path(name))
        make_footage(command.footage, given.candidates)
        first = command.run()
        done = command.parts()
        if given.profile:
            profile = Path(name) / "profile"
            command.run("--no-report", interpreter=("-m", "cProfile", "-o", str(profile)))
            subprocess.run([sys.executable, "-m", "pstats", str(profile)], input="sort cumulative\nstats 60\n", text=True, check=True)
            return 0
        plain, drawn = ([command.run(*more) for _ in range(given.repeats)] for more in (["--no-report"], []))
        if command.parts() != done:
            raise RuntimeError("a rerun ran a unit or packed a shard")
    print(f"{given.candidates} candidates; the first run, with its units, took {first:.1f} s\n")
    rows = []
    for what, seconds in (("rerun, --no-report", plain), ("rerun", drawn)):
        median = statistics.median(seconds)
        ours = f"{median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append((what, ours, "at most", f"{MOST_S:.2f} s", MOST_S / median, 1.0))
    print_table(rows)
    return 0 if all(ratio >= least for *_, ratio, least in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
