"""Valid input to start from: what the studio writes in every layout, small, and what the formats' descriptions show."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.studio import write_layout

MULTI = ("rig", "syncamvideo-v1", "syncamvideo-v2", "kubric4d")
FRAMES = 3


@cache
def layout(name: str, **options: str) -> dict[str, bytes]:
    """The files of a data set of one scene by their names below its folder."""
    cameras = {"cameras": 2} if name in MULTI else {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_layout(name, root, scenes=1, frames=FRAMES, size=(32, 32), **cameras, **options)  # type: ignore[arg-type]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def files(name: str, ending: str, **options: str) -> list[bytes]:
    found = [data for path, data in layout(name, **options).items() if path.endswith(ending)]
    assert found, (name, ending)
    return found


def documents(name: str, ending: str) -> list[Any]:
    return [json.loads(data) for data in files(name, ending)]


def texts(name: str, ending: str, **options: str) -> list[str]:
    return [data.decode() for data in files(name, ending, **options)]


QUALISYS = (
    '<?xml version="1.0"?>\n<calibration><cameras>'
    '<camera active="1" serial="cam01" model="Miqus Video"><fov_video left="0" top="0" right="1919" bottom="1079"/>'
    '<transform x="1000" y="-2000" z="1500" r11="1" r12="0" r13="0" r21="0" r22="0" r23="1" r31="0" r32="-1" r33="0"/>'
    '<intrinsic focalLengthU="90000" focalLengthV="90000" centerPointU="61440" centerPointV="34560" skew="0" sensorMinU="0" '
    'sensorMinV="0" radialDistortion1="-0.05" radialDistortion2="0.08" radialDistortion3="0" tangentalDistortion1="0" '
    'tangentalDistortion2="0"/></camera>\n'
    '<camera active="1" serial="cam02" model="Miqus M3"><fov_video left="0" top="0" right="99" bottom="99"/>'
    '<transform x="0" y="0" z="0" r11="1" r12="0" r13="0" r21="0" r22="1" r23="0" r31="0" r32="0" r33="1"/>'
    '<intrinsic focalLengthU="9000" focalLengthV="9000" centerPointU="3200" centerPointV="3200"/></camera>\n'
    "</cameras></calibration>"
)
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><calibration><cameras><camera serial="&c;"/></cameras></calibration>'
)
COLMAP = (
    "# cameras\n1 PINHOLE 64 48 60 60 32 24\n2 OPENCV 64 48 60 60 32 24 0.1 -0.1 0.001 0\n3 SIMPLE_RADIAL 64 48 60 32 24 0.01\n",
    "# images\n1 1 0 0 0 0 0 0 1 cam01.jpg\n\n2 0.7071068 0.7071068 0 0 0 1 2 2 cam02/000001.jpg\n10 10 -1\n"
    "3 0.7071068 0.7071068 0 0 0 1 2 2 cam02/000002.jpg\n\n",
)
