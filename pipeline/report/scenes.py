"""The cameras of a few samples of each source, for the interactive view."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.auditing.folder import OutputFolder
from pipeline.report.camera_files import CameraFileError, sample_cameras
from pipeline.report.camera_view import scene_json, spread
from pipeline.report.data import SourceData, load_rows
from pipeline.report.found import Found

MOST_PER_SOURCE = 4
MOST_VIEWS = 36
MOST_POSES = 360  # of one scene: 40 kB
MOST_POSES_OF_ALL = 5000  # 0.5 MB


class Scenes:
    """`all`: as camera_view.js takes them. of[source name], by_sample: their numbers."""

    def __init__(self, output: OutputFolder, sources: Sequence[SourceData]) -> None:
        self.all: list[dict[str, Any]] = []
        self.of: dict[str, list[int]] = {}
        self.by_sample: dict[str, int] = {}
        most = max(1, min(MOST_POSES, MOST_POSES_OF_ALL // max(1, MOST_PER_SOURCE * len(sources))))
        found = Found(output)
        for source in sources:
            chosen = _choose(output, source.name)
            rows = load_rows(output, chosen)
            self.of[source.name] = []
            for sample_id in chosen:
                scene = _scene(found, rows[sample_id], most) if len(self.of[source.name]) < MOST_PER_SOURCE else None
                if scene is not None:
                    self.of[source.name].append(len(self.all))
                    self.by_sample[sample_id] = len(self.all)
                    self.all.append(scene)


def _scene(found: Found, row: Mapping[str, Any], most: int) -> dict[str, Any] | None:
    """None where the sample has no cameras, or none that can be read: `audit verify` says what is wrong with them."""
    arrays = found.arrays(row, "cameras")
    if arrays is None:
        return None
    try:
        return scene_json(sample_cameras(arrays, row["sample_id"], tuple(row["view_ids"])), row["sample_id"], MOST_VIEWS, most)
    except (CameraFileError, KeyError, ValueError, TypeError, IndexError):
        return None


def _choose(output: OutputFolder, source: str) -> list[str]:
    """Packed samples to look at, spread over the source: those of several views, if there are any. First as many as are drawn, then
    others, because not every sample of a source need have cameras."""
    table = output.table("samples", ["sample_id", "view_ids"], (ds.field("source") == source) & ds.field("shard").is_valid())
    several = pc.greater(pc.list_value_length(table["view_ids"]), 1)
    packed = (table.filter(several) if pc.any(several).as_py() else table)["sample_id"].to_pylist()
    order = dict.fromkeys([*spread(len(packed), MOST_PER_SOURCE), *spread(len(packed), 4 * MOST_PER_SOURCE)])
    return [packed[i] for i in order]


def scenes_block(source: SourceData, scenes: Scenes) -> str:
    """Buttons, one a sample, and the box that the view is drawn in."""
    numbers = scenes.of[source.name]
    if not numbers:
        return ""
    buttons = "".join(
        f'<button type="button" data-scene="{number}" aria-pressed="{str(i == 0).lower()}">{escape(scenes.all[number]["title"])}</button>'
        for i, number in enumerate(numbers)
    )
    return (
        f'<h3 class="section-title">Cameras</h3><div class="scenes"><div class="choices">{buttons}</div>'
        f'<div class="camera-view" data-first="{numbers[0]}"></div></div>'
    )
