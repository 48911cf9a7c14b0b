"""python -m pipeline.demo: the main job from end to end on footage made on the spot."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.curate import OVER_BUDGET
from pipeline.curate import main as curate
from pipeline.studio import write_layout

# Layout -> its folder below the footage. The first part of the path is the source's name in the recipe.
_FOOTAGE = {
    "syncamvideo-v1": "syncamvideo/v1",
    "syncamvideo-v2": "syncamvideo/v2",
    "realestate10k": "realestate10k",
    "dl3dv": "dl3dv",
    "kubric4d": "kubric4d",
    "davis": "davis",
    "rig": "rig",
    "clips": "clips",
}

_EPILOG = """\
examples:
  python -m pipeline.demo
  python -m pipeline.demo --output /tmp/demo --seed 7

Run it again and the footage is kept, the results are only checked. Exit status: as of python -m pipeline.curate
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.demo",
        description="Render small scenes in the layout of every dataset we read, curate them, and name the report to open.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", metavar="DIR", default="demo-output", help="footage and results go here (default: demo-output)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other scenes (default: 0)")
    options = parser.parse_args(arguments)
    output = Path(options.output)
    footage, result = output / "footage", output / "curated"
    for layout, folder in _FOOTAGE.items():
        _render(layout, footage / folder, options.seed)
    names = dict.fromkeys(folder.partition("/")[0] for folder in _FOOTAGE.values())
    inputs = [f"--input={name}={footage / name}" for name in names]
    # The clips hold a truncated file and one that is no video, on purpose, to show what becomes of them.
    code = curate(["smoke", *inputs, "--output", str(result), "--error-budget", "0.5"])
    if code in (0, OVER_BUDGET):
        print(f"\nOpen the report in a browser: {(result / 'report' / 'index.html').resolve()}")
    return code


def _render(layout: str, folder: Path, seed: int) -> None:
    """Footage that is there already is kept; a half-rendered folder of a killed demo is made anew."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    print(f"rendering {layout} ...", file=sys.stderr, flush=True)
    write_layout(layout, unfinished, seed=seed)
    unfinished.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
