"""python -m pipeline.train: shards in, the trained modules of a method out."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import DONE, FAILED, USAGE, add_method, guarded, size
from pipeline.methods.registry import TRAINING

if TYPE_CHECKING:
    from pipeline.training.settings import TrainSettings

_EPILOG = """\
examples:
  # the paper's setting: 384x672, lr 1e-4, batch 32, 50000 steps, mix 0.6/0.2/0.2, angles from small to large
  python -m pipeline.train syncammaster --data out/ --base wan2.1-1.3b --output runs/first --dry-run
  python -m pipeline.train syncammaster --data out/ --base wan2.1-1.3b --output runs/first --micro-batch 1 --gradient-checkpointing

  # go on after a kill, a full disk, or with more steps; bit-equal on the CPU. Also starts a run that has no checkpoint yet
  python -m pipeline.train syncammaster --data out/ --base wan2.1-1.3b --output runs/first --resume latest

  # multi-view video alone, on two cores
  python -m pipeline.train syncammaster --data out/ --base tiny --output runs/tiny --steps 100 --batch 4 --mix multiview_video=1

  # eight GPUs of a node; several nodes: torchrun's --nnodes and --rdzv-endpoint, or `accelerate launch`
  torchrun --nproc-per-node 8 -m pipeline.train syncammaster --data out/ --base wan2.1-14b --output runs/big --fsdp

  # on a Ray cluster: 8 workers of one GPU each
  ray job submit --working-dir . -- python -m pipeline.train syncammaster --data /abs/out --base wan2.1-1.3b \\
      --output /abs/runs/ray --launcher ray --ray-workers 8

In DIR: checkpoints/step-*/ (all that resuming needs), weights/ (the newest checkpoint's, for pipeline.infer), validation/,
log.jsonl, tensorboard/, train.json. SIGTERM and Ctrl-C finish the step under way and write a checkpoint.

exit status: 0 done, 1 failed or stopped (the message says which checkpoint to go on from), 2 usage: nothing was written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options, own = _parse(list(sys.argv[1:] if arguments is None else arguments))
    go_on = f"go on from the last checkpoint in {options.output} with --resume latest"
    return guarded("train", lambda: _train(options, own), go_on)


def _train(options: argparse.Namespace, own: set[str]) -> int:
    from pipeline.training.errors import TrainingError
    from pipeline.training.start import describe, open_output, start

    try:
        settings = _settings(options, own)
        try:
            resume = open_output(settings, options.resume)
        except OSError as error:
            print(f"train: --output {settings.output} cannot be used ({error}); name another folder", file=sys.stderr)
            return USAGE
        if options.dry_run:
            print("\n".join(describe(settings)))
            return DONE
        if settings.launcher == "ray":
            from pipeline.training.launch_ray import launch

            launch(settings, resume)
        else:
            start(settings, resume)
    except TrainingError as error:
        print(f"train: {error}", file=sys.stderr)
        return FAILED
    except _usage_errors() as error:
        print(f"train: {error}", file=sys.stderr)
        return USAGE
    if not settings.quiet and int(os.environ.get("RANK", "0")) == 0:
        print(f"weights: {Path(settings.output) / 'weights'}")
    return DONE


def _usage_errors() -> tuple[type[Exception], ...]:
    from pipeline.bases.registry import BaseError
    from pipeline.loader.catalog import CatalogError
    from pipeline.training.checkpoint import CheckpointError
    from schemas.typed import RecipeError

    return RecipeError, CatalogError, BaseError, CheckpointError


def _settings(options: argparse.Namespace, own: set[str]) -> "TrainSettings":
    """Raises RecipeError. Paths become absolute: Ray's workers run elsewhere."""
    from pipeline.training.settings import make_settings
    from pipeline.training.start import weights_digest

    module = import_module(TRAINING[options.method])
    apart = {"resume", "dry_run", *own}
    given: dict[str, Any] = {name: value for name, value in vars(options).items() if name not in apart and value is not None}
    for name in ("data", "output", "base"):
        if "://" not in given[name] and (name != "base" or Path(given[name]).is_dir()):
            given[name] = str(Path(given[name]).resolve())
    if options.init_weights is not None:
        given["init_weights"] = str(Path(options.init_weights).resolve())
        given["init_weights_sha256"] = weights_digest(Path(given["init_weights"]))
    return make_settings(given, module.defaults(options.base), {name: getattr(options, name) for name in own})


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, set[str]]:
    """The options, and which of them are the method's own."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description="Train a method on the shards of pipeline.curate. `python -m pipeline.train METHOD --help` lists the options.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found = add_method(parser, TRAINING, arguments)
    if found is None:
        return parser.parse_args(arguments), set()
    of_method, module = found
    _what(of_method.add_argument_group("what and where"))
    _data(of_method.add_argument_group("data"))
    _optimisation(of_method.add_argument_group("optimisation"))
    _placement(of_method.add_argument_group("devices"))
    _records(of_method.add_argument_group("checkpoints and records"))
    module.add_options(of_method)
    own = argparse.ArgumentParser(add_help=False)
    module.add_options(own)
    return parser.parse_args(arguments), set(vars(own.parse_args([])))


def _what(group: Any) -> None:
    group.add_argument("--data", metavar="DIR", required=True, help="output of pipeline.curate or encode_latents, a path or an fsspec URL")
    group.add_argument("--base", metavar="NAME|PATH", required=True, help="cogvideox-2b|5b, wan2.1-1.3b|14b, tiny, or a diffusers folder")
    group.add_argument("--output", metavar="DIR", required=True, help="a new or empty folder, or one to --resume")
    group.add_argument("--resume", metavar="latest|PATH", help="the newest checkpoint of DIR, or this one; the settings must be the same")
    group.add_argument("--init-weights", metavar="DIR|CKPT", help="start from weights/ of another run, or the published step20000.ckpt")
    group.add_argument("--dry-run", action="store_true", help="print parameters, memory estimate and the data mix; write nothing")
    group.add_argument("--random-base", metavar="SEED", type=int, help="random weights of the base's architecture (tests, benchmarks)")


def _data(group: Any) -> None:
    group.add_argument("--selection", metavar="NAME", help="only the sample ids in DIR/selections/NAME.txt or .parquet")
    group.add_argument("--split", metavar="S", help="only samples of this split")
    group.add_argument("--views", metavar="N", type=int, help="views of a multi-view video (default: 2)")
    group.add_argument("--image-views", metavar="N", type=int, help="views of an image group (default: as --views)")
    group.add_argument("--frames", metavar="N", type=int, help="frames of a clip (default: the base's)")
    group.add_argument("--frame-stride", metavar="N", type=int, help="every n-th frame of the media (default: 1)")
    group.add_argument("--size", metavar="HxW", type=size, help="height x width in pixels (default: 384x672; tiny 64x64)")
    group.add_argument(
        "--mix",
        metavar="KIND=SHARE,...",
        type=_mix,
        help="shares of the steps (default: multiview_video=0.6,multiview_images=0.2,singleview_video=0.2)",
    )
    group.add_argument(
        "--curriculum",
        metavar="STEP:LOW-HIGH,...|none",
        type=_curriculum,
        help="angles between views in degrees from a step on (default: 0:0-60,10000:30-90,20000:60-120)",
    )
    group.add_argument("--first-view", choices=("random", "first"), help="which camera is view 0 (default: random)")
    group.add_argument("--payload", choices=("frames", "latents"), help="what to read (default: frames)")
    group.add_argument("--seed", metavar="N", type=int, help="of the order, the noise and the first weights (default: 0)")


def _optimisation(group: Any) -> None:
    group.add_argument("--steps", metavar="N", type=int, help="optimizer steps (default: 50000)")
    group.add_argument("--lr", metavar="RATE", type=float, help="learning rate of AdamW (default: 1e-4)")
    group.add_argument("--batch", metavar="N", type=int, help="samples of a step over all devices (default: 32)")
    group.add_argument("--warmup", metavar="N", type=int, help="steps in which the rate rises (default: 0)")
    group.add_argument("--lr-schedule", choices=("constant", "cosine"), help="after the warm-up (default: constant)")
    group.add_argument("--weight-decay", metavar="W", type=float, help="(default: 0.01)")
    group.add_argument("--max-grad-norm", metavar="N", type=float, help="clip the gradient's norm, 0 for never (default: 1)")
    group.add_argument("--precision", choices=("no", "bf16", "fp16"), help="to compute in; what trains is float32 (default: bf16)")


def _placement(group: Any) -> None:
    group.add_argument("--micro-batch", metavar="N", type=int, help="samples at a time on one device (default: its whole share)")
    group.add_argument("--gradient-checkpointing", action="store_true", default=None, help="recompute blocks backward; saves memory")
    group.add_argument("--fsdp", action="store_true", default=None, help="shard weights and optimizer over the processes of torchrun")
    group.add_argument("--compile", action="store_true", default=None, help="torch.compile every block")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    group.add_argument("--workers", metavar="N", type=int, help="processes that read and decode, for each device (default: 4)")
    group.add_argument("--launcher", choices=("local", "ray"), help="ray: Ray Train workers of a cluster (default: local)")
    group.add_argument("--ray-workers", metavar="N", type=int, help="(default: 1)")
    group.add_argument("--ray-gpus", metavar="N", type=float, help="GPUs of a worker (default: 1 where the cluster has any)")


def _records(group: Any) -> None:
    group.add_argument("--checkpoint-every", metavar="N", type=int, help="steps (default: 1000)")
    group.add_argument("--keep", metavar="N", type=int, help="the newest N checkpoints (default: 3)")
    group.add_argument("--validate-every", metavar="N", type=int, help="steps between validation videos, 0 for none (default: 1000)")
    group.add_argument("--log-every", metavar="N", type=int, help="steps (default: 10)")
    group.add_argument("--quiet", action="store_true", default=None, help="no progress on the screen")


def _mix(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not KIND=SHARE, such as multiview_video=0.6") from None
    return shares


def _curriculum(text: str) -> list[dict[str, float]]:
    if text == "none":
        return []
    phases = []
    for part in text.split(","):
        start, _, angles = part.partition(":")
        low, _, high = angles.partition("-")
        try:
            phases.append({"start": int(start), "low": float(low), "high": float(high)})
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not STEP:LOW-HIGH, such as 10000:30-90; or give none") from None
    return phases


if __name__ == "__main__":
    sys.exit(main())
