"""python -m benchmarks.whatif: other limits asked of a million rows in 2,000 units, as a run compacts their manifest.

The manifest is made up: clips with the scores of three cost tiers, all columns filled as a run fills them, 64 units a file. The baseline
reads the same columns of the same files and decides nothing. Both in one process, in turns, without the start of Python.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.table import print_table
from pipeline.auditing.decided_rows import read_columns
from pipeline.auditing.flips import count_flips
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.whatif import what_if
from pipeline.binding import resolved, source_of
from pipeline.store import write_table
from schemas.manifest import SAMPLES
from schemas.recipe import parse_recipe
from schemas.scores import SCORES

UNITS_PER_FILE = 64  # pipeline.tables
MOST_S = 1.0

RECIPE = {
    "name": "million",
    "sources": {
        "clips": {
            "license": "CC0",
            "stages": [
                {"header": {"min_width": 640, "min_height": 360, "min_fps": 14, "min_duration_s": 2.0}},
                {"quality": {}},
                {"motion": {}},
            ],
        }
    },
}

QUESTIONS = {
    "tightened, pixels": ["quality.min_sharpness=60"],
    "loosened, pixels": ["quality.min_sharpness=5", "quality.max_frozen_fraction=0.9"],
    "loosened, models": ["motion.max_camera_motion=0.02"],
    "four limits, three tiers": [
        "header.min_duration_s=3",
        "quality.min_sharpness=10",
        "quality.max_dark_fraction=0.5",
        "motion.max_camera_motion=0.01",
    ],
}


def make_manifest(output: Path, rows: int, units: int) -> None:
    """DIR/manifest/samples and run.json. Every verdict follows from its scores by the recipe's limits."""
    recipe = parse_recipe(RECIPE)
    source = source_of(recipe, "clips")
    document = {"state": "done", "recipe": resolved(recipe, {"clips": source}), "inputs": {"clips": "/footage"}}
    output.mkdir(parents=True)
    (output / "run.json").write_text(json.dumps(document))
    rng = np.random.default_rng(0)
    of_unit = np.arange(rows) * units // rows
    for number, first in enumerate(range(0, units, UNITS_PER_FILE)):
        start, stop = np.searchsorted(of_unit, [first, first + UNITS_PER_FILE])
        write_table(output / "manifest" / "samples" / f"part-{number:05d}.parquet", _table(rng, of_unit[start:stop], int(start)))


def _table(rng: np.random.Generator, unit: NDArray[np.int64], start: int) -> pa.Table:
    n = len(unit)
    source = source_of(parse_recipe(RECIPE), "clips")
    scores = {
        "width": rng.choice([480.0, 1280.0, 1920.0], n),
        "height": rng.choice([270.0, 720.0, 1080.0], n),
        "fps": rng.choice([12.0, 24.0, 29.97, 30.0], n, p=[0.05, 0.35, 0.3, 0.3]),
        "duration_s": rng.gamma(2.0, 4.0, n),
        "black_fraction": rng.beta(0.1, 8.0, n),
        "frozen_fraction": rng.beta(0.3, 2.0, n),
        "letterbox_fraction": rng.beta(0.1, 6.0, n),
        "sharpness": rng.gamma(1.2, 90.0, n),
        "brightness": rng.beta(4.0, 5.0, n),
        "dark_fraction": rng.beta(0.6, 3.0, n),
        "bright_fraction": rng.beta(0.3, 6.0, n),
        "camera_motion": rng.gamma(0.6, 0.02, n),
        "foreground_motion": rng.gamma(1.0, 0.02, n),
        "tracked_points": rng.integers(0, 400, n).astype(float),
        "tracked_masks": rng.integers(0, 6, n).astype(float),
    }
    reasons: list[list[str]] = [[] for _ in range(n)]
    stopped, failed = np.full(n, -1), np.zeros(n, bool)
    null = {}
    for place, stage in enumerate(source.stages):
        here = failed.copy()
        stopped[here & (stopped < 0)] = place
        for limit in stage.limits():
            outside = np.array([limit.violated(value) for value in scores[limit.score]]) & ~here
            for row in np.flatnonzero(outside).tolist():
                reasons[row] += [] if str(limit.reason) in reasons[row] else [str(limit.reason)]
            failed |= outside
        null |= dict.fromkeys(_scores_of(stage.name), here)
    names = [f"clips_-{i:08d}_x2emp4" for i in range(start, start + n)]
    digests = [f"{i:032x}" for i in rng.integers(0, 2**63, 3 * n).tolist()]
    keys = [[("header", digests[3 * i]), ("ingest", digests[3 * i + 1]), ("quality", digests[3 * i + 2])] for i in range(n)]
    columns = {
        "sample_id": names,
        "source": ["clips"] * n,
        "candidate_id": [f"{i:08d}.mp4" for i in range(start, start + n)],
        "kind": ["video"] * n,
        "is_source": np.ones(n, bool),
        "is_sample": np.ones(n, bool),
        "n_children": np.zeros(n, np.int32),
        "status": np.where(failed, "rejected", "kept"),
        "reasons": reasons,
        "stopped_at": [None if place < 0 else source.stages[place].name for place in stopped.tolist()],
        "attempts": np.ones(n, np.int32),
        "has_text": np.ones(n, bool),
        "license": ["CC0"] * n,
        "media": [[f"{i:08d}.mp4"] for i in range(start, start + n)],
        "view_ids": [["clip"]] * n,
        "width": scores["width"].astype(np.int32),
        "height": scores["height"].astype(np.int32),
        "n_frames": (scores["duration_s"] * scores["fps"]).astype(np.int32),
        "fps": scores["fps"],
        "scores": pa.StructArray.from_arrays(
            [pa.array(scores[name], mask=null.get(name)) if name in scores else pa.nulls(n, pa.float64()) for name in SCORES], list(SCORES)
        ),
        "step_keys": pa.array(keys, SAMPLES.field("step_keys").type),
        "shard": [
            None if bad else f"clips-all-{i // 400:06d}-0123abcd.tar"
            for i, bad in zip(range(start, start + n), failed.tolist(), strict=True)
        ],
        "content_sha256": [None if bad else digest * 2 for bad, digest in zip(failed.tolist(), digests[:n], strict=True)],
        "unit": [f"u{number:06d}" for number in unit.tolist()],
    }
    arrays = [_array(columns.get(field.name), field, n) for field in SAMPLES]
    return pa.Table.from_arrays(arrays, schema=SAMPLES)


def _array(values: object, field: pa.Field, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, field.type)
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)


def _scores_of(stage: str) -> list[str]:
    return {
        "header": [],
        "quality": [name for name in SCORES if name.endswith("_fraction") or name in ("sharpness", "brightness")],
        "motion": ["camera_motion", "foreground_motion", "tracked_points", "tracked_masks"],
    }[stage]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of all threads' processors: on an idle machine the first is no more than the second."""
    began, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - spent


def measure(output: Path, repeats: int) -> None:
    folder = OutputFolder(output)
    rows, flips = [], []
    for name, given in QUESTIONS.items():
        answer = what_if(folder, given)
        columns = answer.table.column_names
        ours, read = [], []
        for _ in range(repeats):
            ours.append(timed(lambda given=given: count_flips(what_if(OutputFolder(output), given))))
            read.append(timed(lambda columns=columns: read_columns(folder, columns)))
        counts = count_flips(answer)["sources"]["clips"]["flips"]
        flips.append(f"{name}: {', '.join(f'{count} {flip}' for flip, count in counts.items())}")
        (clock, spent), (_, reading) = (map(statistics.median, zip(*each, strict=True)) for each in (ours, read))
        rows.append((f"{name}: processor time", f"{spent:.2f} s", "at most", f"{MOST_S:.2f} s", MOST_S / spent, 1.0))
        rows.append((f"{name}: clock", f"{clock:.2f} s", "at most", f"{MOST_S:.2f} s", MOST_S / clock, 1.0))
        rows.append((f"{name}: processor time", f"{spent:.2f} s", "reading alone", f"{reading:.2f} s", reading / spent, 0.0))
    print_table(rows)
    print("\n" + "\n".join(flips))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the manifest here, or take the one that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = options.keep or Path(folder) / "out"
        if not output.exists():
            make_manifest(output, options.rows, options.units)
        size = sum(path.stat().st_size for path in (output / "manifest" / "samples").iterdir())
        files = len(list((output / "manifest" / "samples").iterdir()))
        print(f"{options.rows} rows, {options.units} units, {files} files, {size / 1e6:.0f} MB")
        measure(output, options.repeats)


if __name__ == "__main__":
    main()
