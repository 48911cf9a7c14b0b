"""Generate held-out views of clips from one of their views, and compare them with what was filmed: PSNR, SSIM, paired intervals."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import count, size
from pipeline.device import PRECISIONS, device_of, dtype_of, precision_of

if TYPE_CHECKING:
    from pipeline.methods.syncammaster.evaluation import Protocol, Results

EPILOG = """\
conditions (same clips, noise and texts): full; modules-off, the base alone; cameras-shuffled, the cameras of another clip.

examples:
  python -m pipeline.evaluate syncammaster --weights runs/novel/weights --data held_out/ --split val --output eval/
  python -m pipeline.evaluate syncammaster --weights runs/seed0/weights --weights runs/seed1/weights --weights runs/seed2/weights \\
      --base base/ --data held_out/ --steps 20 --video-guidance 1 --text-guidance 1 --output eval/

In DIR: results.parquet (a row for each clip, seed, condition and view, frame by frame), summary.json, sheet.png to look at. Run the
same command again to go on after a stop.

exit status: 0 done, 1 failed or interrupted (run again to go on), 2 usage
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what and where")
    what.add_argument(
        "--weights", metavar="DIR", action="append", required=True, help="weights/ of a training run; again for each training seed"
    )
    what.add_argument("--base", metavar="NAME|PATH", help="the base the weights belong to (default: the one they were trained on)")
    what.add_argument("--data", metavar="DIR", required=True, help="output of pipeline.curate with clips that were not trained on")
    what.add_argument("--selection", metavar="NAME", help="only the sample ids in DIR/selections/NAME.txt or .parquet")
    what.add_argument("--split", metavar="S", help="only samples of this split")
    what.add_argument("--limit", metavar="N", type=count(1), help="only the first N clips that can be used")
    what.add_argument("--output", metavar="DIR", required=True, help="the results go here")
    what.add_argument("--compare", metavar="LIST", default="modules-off,cameras-shuffled", help="conditions beside full (default: both)")
    shape = parser.add_argument_group("shape (default: as the weights were trained)")
    shape.add_argument("--views", metavar="N", type=count(2), default=2, help="views of a clip, the input included (default: 2)")
    shape.add_argument("--angles", metavar="LOW-HIGH", type=_angles, help="degrees between the input and each other view (default: any)")
    shape.add_argument("--frames", metavar="N", type=count(1), help="frames of a view")
    shape.add_argument("--frame-stride", metavar="N", type=count(1), default=1, help="every N-th frame of the clip (default: 1)")
    shape.add_argument("--size", metavar="HxW", type=size, help="height x width in pixels")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", metavar="N", type=count(1), default=50, help="(default: 50)")
    sampling.add_argument("--video-guidance", metavar="S", type=float, default=1.8, help="scale of the video (default: 1.8)")
    sampling.add_argument("--text-guidance", metavar="S", type=float, default=7.5, help="scale of the text (default: 7.5; 1 with 1: none)")
    sampling.add_argument("--seed", metavar="N", type=count(0), default=0, help="of views, noise, shuffle and bootstrap (default: 0)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--batch", metavar="N", type=count(1), default=1, help="clips generated at once (default: 1)")
    machine.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    machine.add_argument("--precision", choices=PRECISIONS, help="no is float32 (default: bf16 on a GPU, no on the CPU)")
    machine.add_argument("--random-base", metavar="SEED", type=count(0), help="random weights of the base's architecture (tests)")
    machine.add_argument("--quiet", action="store_true", help="no progress on the screen")


def run(options: argparse.Namespace) -> "Results":
    """The evaluation that the options ask for. Raises ValueError for what cannot be asked, and what `evaluate` raises."""
    from tqdm import tqdm

    from pipeline.bases.registry import load_base
    from pipeline.loader.catalog import Catalog
    from pipeline.methods.syncammaster.evaluation import eligible, evaluate
    from pipeline.methods.syncammaster.weights import read_config

    weights = [Path(folder) for folder in options.weights]
    config = read_config(weights[0])
    _check_places(weights, Path(options.output))
    protocol = _protocol(options, config.extra)
    catalog = Catalog.open(options.data, options.selection, options.split)
    if catalog.encoding is not None:
        raise ValueError(f"--data {options.data}: holds latents; the truth is in pictures, give the folder that they came from")
    samples = eligible(catalog, protocol)[: options.limit]
    device = device_of(options.device)
    base = load_base(
        options.base or config.base, dtype=dtype_of(precision_of(options.precision, device)), device=device, seed=options.random_base
    )
    base.spec.latent_frames(protocol.frames)
    base.spec.latent_size(*protocol.size)
    total = len(samples) * len(weights) * len(protocol.conditions)
    hidden = True if options.quiet else None  # None shows the bar on a terminal only
    with tqdm(total=total, unit="clip", desc="evaluate", disable=hidden, file=sys.stderr) as bar:
        return evaluate(
            base, weights, catalog, Path(options.output), protocol, samples=samples, batch=options.batch, done=lambda n: bar.update(n)
        )


def _check_places(weights: list[Path], output: Path) -> None:
    """Raises ValueError for weights that would count twice, and for an output folder that holds something else."""
    from pipeline.methods.syncammaster.evaluation import RESULTS, SHEET, SUMMARY
    from pipeline.store import TEMPORARY

    if len({folder.resolve() for folder in weights}) < len(weights):
        raise ValueError(f"--weights {', '.join(map(str, weights))}: the same weights twice are no two training seeds")
    ours = {"parts", "pictures", RESULTS, SHEET, SUMMARY}
    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    others = [name for name in names if name not in ours and not name.startswith(TEMPORARY)]
    if others:
        raise ValueError(f"--output {output} holds something else ({', '.join(others[:4])}); name a new or empty folder")


def _protocol(options: argparse.Namespace, trained: dict[str, object]) -> "Protocol":
    from pipeline.methods.syncammaster.evaluation import Protocol
    from schemas.typed import build

    frames, pixels = options.frames or trained.get("frames"), options.size or trained.get("size")
    if frames is None or pixels is None:
        raise ValueError(f"--weights {options.weights[0]} do not say at what size they were trained; give --size HxW and --frames N")
    names = ("views", "frame_stride", "steps", "video_guidance", "text_guidance", "angles", "seed")
    asked = {name: getattr(options, name) for name in names}
    compared = [name.strip() for name in options.compare.split(",") if name.strip()]
    return build(Protocol, {**asked, "frames": frames, "size": pixels, "compare": compared}, "options")


def _angles(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        found = float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW-HIGH in degrees, such as 0-60") from None
    if not 0 <= found[0] < found[1] <= 180:
        raise argparse.ArgumentTypeError(f"{text!r}: angles must ascend within 0 to 180 degrees")
    return found
