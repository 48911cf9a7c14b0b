"""python -m pipeline.demo: the main job from end to end on footage made on the spot."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.curate import OVER_BUDGET
from pipeline.curate import main as curate
from pipeline.studio import write_layout

# Layout, folder below the footage, and what of it to make. Small: the whole demo takes about a minute on two cores.
_FOOTAGE = (
    ("syncamvideo-v1", "syncamvideo", {"scenes": 2, "cameras": 6, "frames": 33, "size": (144, 96)}),
    ("syncamvideo-v2", "syncamvideo", {"scenes": 2, "cameras": 4, "frames": 33, "size": (128, 128)}),
    ("realestate10k", "realestate10k", {"scenes": 3, "frames": 120, "size": (192, 108)}),
    ("rig", "rig", {"scenes": 2, "cameras": 4, "frames": 33, "size": (160, 90)}),
    ("clips", "clips", {"scenes": 8, "frames": 50, "size": (192, 108)}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.demo",
        description="Render small scenes in the layout of every dataset we read, curate them, and name the report to open.",
    )
    parser.add_argument("--output", metavar="DIR", default="demo-output", help="footage and results go here (default: demo-output)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args(arguments)
    output = Path(options.output)
    footage, result = output / "footage", output / "curated"
    for layout, folder, settings in _FOOTAGE:
        if not (footage / f".{layout}.done").exists():
            print(f"rendering {layout} ...", file=sys.stderr, flush=True)
            write_layout(layout, footage / folder, seed=options.seed, **settings)
            (footage / f".{layout}.done").touch()
    inputs = [f"--input={folder}={footage / folder}" for folder in dict.fromkeys(folder for _, folder, _ in _FOOTAGE)]
    # The clips hold a truncated file and one that is no video, on purpose, to show what becomes of them.
    code = curate(["smoke", *inputs, "--output", str(result), "--error-budget", "0.5"])
    if code in (0, OVER_BUDGET):
        print(f"\nOpen the report in a browser: {(result / 'report' / 'index.html').resolve()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
