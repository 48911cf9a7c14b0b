"""The command line of inference, and what its options cannot mean together."""

import argparse
import math

from pipeline.command import count, size
from pipeline.device import PRECISIONS
from pipeline.generated import CAMERAS
from pipeline.methods.syncammaster.config import FPS
from pipeline.viewpoints.presets import described

VIDEO_GUIDANCE, TEXT_GUIDANCE = 1.8, 7.5  # the paper's, with an input video

EPILOG = f"""\
cameras: a preset with parameters, or a camera file (our cameras.json, SynCamVideo's JSON, a folder with COLMAP's cameras.txt
and images.txt), where FILE#cam03,cam01 chooses cameras. The first camera is view 0. The presets with their defaults:
{described()}

examples:
  python -m pipeline.infer syncammaster --weights runs/first/weights --prompt "A dog in a park" --cameras azimuth --output dog/
  python -m pipeline.infer syncammaster --weights runs/first/weights --prompt "A dog" --cameras arc:angle=90 --views 4 --output dog4/
  python -m pipeline.infer syncammaster --weights runs/novel/weights --prompt "A dog" --cameras rig/cameras.json#cam01,cam04 \\
      --video dog.mp4 --output seen_from_cam04/
  python -m pipeline.infer syncammaster --weights runs/novel/weights --data out/ --selection held_out --video-from-data --output all/

In DIR (over shards in DIR/SAMPLE_ID): view00.mp4, ..., grid.mp4, {CAMERAS}, and settings.json, which is written last. Run the same
command again to go on after a stop.

exit status: 0 done, 1 failed or interrupted (run again to go on), 2 usage
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what and where")
    what.add_argument("--weights", metavar="DIR|CKPT", help="weights/ of a training run, or the published step20000.ckpt")
    what.add_argument("--base", metavar="NAME|PATH", help="the base the weights belong to (default: the one they were trained on)")
    what.add_argument("--prompt", metavar="TEXT", help="what is to be seen; over shards only for samples without a text")
    what.add_argument("--cameras", metavar="PRESET|FILE", help="where the cameras stand, see below (over shards: the sample's own)")
    what.add_argument("--output", metavar="DIR", required=True, help="the videos go here")
    what.add_argument("--modules-off", action="store_true", help="the base alone, every view by itself; then --weights may be left off")
    what.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; load no base, write nothing")
    video = parser.add_argument_group("input video (weights trained with --novel-view)")
    video.add_argument("--video", metavar="FILE", help="becomes view 0 as it is; the other views are generated to go with it")
    video.add_argument("--video-start", metavar="N", type=count(0), default=0, help="its first frame (default: 0)")
    video.add_argument(
        "--video-stride", metavar="N", type=count(1), help="every N-th frame, also of --data (default: as in training, else 1)"
    )
    video.add_argument("--video-guidance", metavar="S", type=float, help=f"scale of the video (default: {VIDEO_GUIDANCE})")
    video.add_argument("--text-guidance", metavar="S", type=float, help=f"scale of the text beside a video (default: {TEXT_GUIDANCE})")
    data = parser.add_argument_group("over shards")
    data.add_argument("--data", metavar="DIR", help="output of pipeline.curate: texts and cameras of its samples, keyed by sample id")
    data.add_argument("--selection", metavar="NAME", help="only the sample ids in DIR/selections/NAME.txt or .parquet")
    data.add_argument("--split", metavar="S", help="only samples of this split")
    data.add_argument("--limit", metavar="N", type=count(1), help="only the first N samples")
    data.add_argument("--video-from-data", action="store_true", help="each sample's first view is the input video")
    shape = parser.add_argument_group("shape (default: as the weights were trained)")
    shape.add_argument("--views", metavar="N", type=count(1), help="views, view 0 included")
    shape.add_argument("--frames", metavar="N", type=count(1), help="frames of a view")
    shape.add_argument("--size", metavar="HxW", type=size, help="height x width in pixels")
    shape.add_argument("--fps", metavar="N", type=float, default=FPS, help="frames a second of the written files (default: 15)")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", metavar="N", type=count(1), default=50, help="(default: 50)")
    sampling.add_argument("--guidance", metavar="G", type=float, help="scale of the text (default: CogVideoX 6, Wan 5; 1: none)")
    sampling.add_argument(
        "--dynamic-guidance",
        action=argparse.BooleanOptionalAction,
        help="let the scale vary over the steps as the CogVideoX release does (default: CogVideoX yes, Wan no)",
    )
    sampling.add_argument("--negative-prompt", metavar="TEXT", help="instead of no text (default: none; the published checkpoint: Wan's)")
    sampling.add_argument("--seed", metavar="N", type=count(0), default=0, help="of the noise (default: 0)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    machine.add_argument("--precision", choices=PRECISIONS, help="no is float32 (default: bf16 on a GPU, no on the CPU)")
    machine.add_argument("--sequential-guidance", action="store_true", help="a step's passes one by one: less memory, more time")
    machine.add_argument("--random-base", metavar="SEED", type=count(0), help="random weights of the base's architecture (tests)")
    machine.add_argument("--quiet", action="store_true", help="no progress on the screen")


def check_together(options: argparse.Namespace) -> None:
    """What single options cannot say. Raises ValueError."""
    with_video = options.video is not None or options.video_from_data
    wrong = [
        (options.weights is None and not options.modules_off, "--weights DIR must be given, or --modules-off for the base alone"),
        (options.weights is None and options.base is None, "without --weights, --base must be given"),
        (options.data is not None and options.video is not None, "--video goes with one --prompt; over --data, give --video-from-data"),
        (options.data is None and options.video_from_data, "--video-from-data needs --data"),
        (with_video and options.guidance is not None, "with an input video, give --video-guidance and --text-guidance, not --guidance"),
        (with_video and options.dynamic_guidance, "--dynamic-guidance is not for an input video"),
        (not with_video and options.video_guidance is not None, "--video-guidance needs --video or --video-from-data"),
        (not with_video and options.text_guidance is not None, "--text-guidance needs --video; without one, give --guidance"),
        (not 0 < options.fps < math.inf, f"--fps is {options.fps:g}; it must be a number greater than 0"),
    ]
    for name in ("guidance", "video_guidance", "text_guidance"):
        scale = getattr(options, name)
        wrong.append((scale is not None and not math.isfinite(scale), f"--{name.replace('_', '-')} is {scale}; it must be a finite number"))
    for name in ("selection", "split", "limit"):
        wrong.append((options.data is None and getattr(options, name) is not None, f"--{name} needs --data"))
    for is_wrong, message in wrong:
        if is_wrong:
            raise ValueError(message)
