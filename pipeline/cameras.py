"""Draw the cameras of a file: an interactive view in one HTML file that opens offline.

FILE is any camera file that we read: a sample's cameras.npz, our cameras.json, SynCamVideo's JSON (v1 or v2), a trajectory of
RealEstate10K, transforms.json (DL3DV), Kubric-4D's JSON or its scene's folder, a Qualisys *.qca.txt, or COLMAP's text model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.command import DONE, FAILED, USAGE

EPILOG = """\
examples:
  python -m pipeline.cameras footage/rig/scene1/cameras.json --output cameras.html
  python -m pipeline.cameras RealEstate10K/train/0000cc6d8b108390.txt
  tar -xOf out/shards/rig-all-000000-15388b73.tar rig_-scene1.cameras.npz > cameras.npz

It prints what it found; --output draws it. Exit status: 0 done, 1 could not write, 2 wrong arguments, or no camera file
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.cameras", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the camera file, or the folder of a COLMAP model")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the view here, e.g. cameras.html")
    options = parser.parse_args(arguments)

    from pipeline.auditing.layout import format_cell
    from pipeline.report.camera_files import CameraFileError, read_camera_file
    from pipeline.report.camera_view import camera_page, facts
    from pipeline.store import write_bytes

    try:
        cameras = read_camera_file(options.file)
    except CameraFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    for name, text in facts(cameras).items():
        print(f"{name:<16}{format_cell(text)}")
    if options.output is not None:
        title = "/".join(options.file.resolve().parts[-2:])
        try:
            write_bytes(options.output, camera_page(cameras, title).encode("utf-8", "backslashreplace"))
        except OSError as error:
            print(f"error: {options.output} could not be written: {error.strerror}", file=sys.stderr)
            return FAILED
        print(f"{'view':<16}{format_cell(options.output)}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
