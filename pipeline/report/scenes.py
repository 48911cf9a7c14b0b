"""The cameras of a few samples of each source, for the interactive view."""

from collections.abc import Sequence
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


class Scenes:
    """`all`: as camera_view.js takes them. of[source name], by_sample: their numbers."""

    def __init__(self, output: OutputFolder, sources: Sequence[SourceData]) -> None:
        self.all: list[dict[str, Any]] = []
        self.of: dict[str, list[int]] = {}
        self.by_sample: dict[str, int] = {}
        found = Found(output)
        for source in sources:
            chosen = _choose(output, source.name)
            rows = load_rows(output, chosen)
            self.of[source.name] = []
            for sample_id in chosen:
                arrays = found.arrays(rows[sample_id], "cameras")
                if arrays is None:
                    continue
                try:
                    cameras = sample_cameras(arrays, sample_id, tuple(rows[sample_id]["view_ids"]))
                except (CameraFileError, KeyError, ValueError):
                    continue  # `audit verify` says what is wrong with it
                self.of[source.name].append(len(self.all))
                self.by_sample[sample_id] = len(self.all)
                self.all.append(scene_json(cameras, sample_id, MOST_VIEWS, MOST_POSES))


def _choose(output: OutputFolder, source: str) -> list[str]:
    """Packed samples that have a cameras.npz, spread over the source: those of several views, if there are any."""
    table = output.table("samples", ["sample_id", "view_ids"], (ds.field("source") == source) & ds.field("shard").is_valid())
    several = pc.greater(pc.list_value_length(table["view_ids"]), 1)
    packed = (table.filter(several) if pc.any(several).as_py() else table)["sample_id"].to_pylist()
    having = _with_cameras(output, source)
    packed = [sample_id for sample_id in packed if sample_id in having]
    return [packed[i] for i in spread(len(packed), MOST_PER_SOURCE)]


def _with_cameras(output: OutputFolder, source: str) -> set[str]:
    found: set[str] = set()
    for batch in output.table("shards", ["members"], ds.field("source") == source).to_batches(max_chunksize=64):
        flat = pc.list_flatten(batch.column("members"))
        own = pc.equal(pc.struct_field(flat, "name"), "cameras.npz")
        found.update(pc.struct_field(flat, "sample_id").filter(own).to_pylist())
    return found


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
