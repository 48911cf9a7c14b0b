"""`python -m pipeline.studio LAYOUT --output DIR`: render a small dataset with exactly known cameras."""

import argparse
import re
import sys
from pathlib import Path

from pipeline.studio.layouts import LAYOUTS, write_layout

EPILOG = """
layouts:
  syncamvideo-v1   scenes of up to 36 static cameras, one JSON of Unreal matrices each, camera-only validation sets
  syncamvideo-v2   scenes of up to 10 static cameras, camera_extrinsics.json, metadata.csv with captions
  realestate10k    walks through rooms: trajectory txt + YouTube-like videos, extracted frames, or .torch chunks
  dl3dv            walks through rooms: pictures (images_4, images_8, images) and nerfstudio's transforms.json
  kubric4d         up to 16 static cameras around a plaza: rgba, depth (distance) and segmentation pictures, one JSON a view
  davis            moving figures: numbered pictures, indexed masks, lists of train and val
  rig              synchronized cameras with cameras.json, a COLMAP text model, or a Qualisys file
  clips            single videos with captions, some of them deliberately bad

examples:
  python -m pipeline.studio syncamvideo-v2 --output footage/syncamvideo
  python -m pipeline.studio rig --output footage/rig --scenes 1 --cameras 6 --size 480x270 --truth truth/rig
  python -m pipeline.studio realestate10k --output footage/re10k --trajectories RealEstate10K/train --size 640x360

The same arguments give the same bytes. Exit: 0 done, 1 could not write, 2 wrong arguments.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pipeline.studio",
        description="Render small scenes (a moving figure, crates, rooms) with exactly known cameras, in the layout of a real dataset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("layout", metavar="LAYOUT", help=", ".join(LAYOUTS))
    made.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the dataset; new or empty")
    made.add_argument("--scenes", type=int, metavar="N", help="scenes, or clips where a scene has one camera")
    made.add_argument("--cameras", type=int, metavar="V", help="cameras in each scene")
    made.add_argument("--frames", type=int, metavar="F", help="frames of each view")
    made.add_argument("--size", type=frame_size, metavar="WxH", help="frame size in pixels, both even, e.g. 256x144")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other scenes (default 0)")
    made.add_argument("--truth", type=Path, metavar="DIR", help="also write cameras, depth, masks and joints here, one npz a scene")
    footage, calibrations = ("video", "frames", "torch"), ("json", "colmap", "qualisys")
    made.add_argument("--footage", choices=footage, default="video", help="realestate10k: how frames are stored (default video)")
    made.add_argument("--calibration", choices=calibrations, default="json", help="rig: form of the calibration (default json)")
    made.add_argument("--trajectories", type=Path, metavar="DIR", help="realestate10k: film along these published trajectory files")
    return made


def frame_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form WIDTHxHEIGHT, e.g. 256x144")
    return int(match[1]), int(match[2])


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        write_layout(
            given.layout, given.output, given.scenes, given.cameras, given.frames, given.size, given.seed,
            truth=given.truth, footage=given.footage, calibration=given.calibration, trajectories=given.trajectories, progress=True,
        )  # fmt: skip
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: could not write: {error}", file=sys.stderr)
        return 1
    print(f"{given.layout}: written to {given.output}" + (f", truth to {given.truth}" if given.truth else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
