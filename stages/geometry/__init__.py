"""Geometry between cameras: the angles that the curriculum uses, and how much two images overlap."""

from stages.geometry.overlap import one_way_overlap, two_way_overlap
from stages.geometry.pairs import PairAngles, angle_bins, fields_of_view, pair_angles, pair_rows, scene_centre

__all__ = [
    "PairAngles",
    "angle_bins",
    "fields_of_view",
    "one_way_overlap",
    "pair_angles",
    "pair_rows",
    "scene_centre",
    "two_way_overlap",
]
