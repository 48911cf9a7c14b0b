"""Where the cameras of generated videos stand: presets with parameters, and camera files of every kind we read.

`viewpoints(text, ...)` takes what a user writes after --cameras.
"""

from pipeline.viewpoints.base import Viewpoints, ViewpointsError
from pipeline.viewpoints.choice import viewpoints
from pipeline.viewpoints.files import read_cameras, write_cameras
from pipeline.viewpoints.presets import PRESETS, preset

__all__ = ["PRESETS", "Viewpoints", "ViewpointsError", "preset", "read_cameras", "viewpoints", "write_cameras"]
