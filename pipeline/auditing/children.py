"""What samplers themselves said of children, from the parts of a run: the manifest does not tell their reasons from those of limits."""

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.auditing.folder import OutputFolder
from pipeline.parts import open_part, part_path
from schemas.candidate import child_key


def own_reasons(output: OutputFolder, sampler: str, sample_ids: Sequence[str]) -> list[tuple[str, ...] | None]:
    """For every child its sampler's own reasons; None where DIR/parts does not (or no longer) say."""
    wanted = ds.field("sample_id").isin(list(sample_ids))
    units = set(output.table("samples", ["unit"], wanted)["unit"].to_pylist())
    keys = output.table("units", ["unit", "unit_key"], ds.field("unit").isin(sorted(units))).to_pylist()
    found: dict[str, tuple[str, ...]] = {}
    for each in keys:
        found |= _in_part(output, each["unit"], each["unit_key"], sampler)
    return [found.get(sample_id) for sample_id in sample_ids]


def _in_part(output: OutputFolder, unit: str, unit_key: str, sampler: str) -> dict[str, tuple[str, ...]]:
    try:
        rows = open_part(part_path(output.path, unit, unit_key)).read(columns=["sample_id", "step_keys", "features"]).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row["features"]:
            result = json.loads(row["features"]).get(dict(row["step_keys"] or []).get(sampler), {})
            found |= {child_key(row["sample_id"], child["suffix"]): tuple(child["reasons"]) for child in result.get("ok", ())}
    return found
