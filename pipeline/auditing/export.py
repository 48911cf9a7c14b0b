"""A folder for others: the samples of chosen licences, with their shards and their manifest, and nothing that was not asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.archive import safe_shard_path
from pipeline.auditing.folder import OutputFolder
from pipeline.location import Location
from pipeline.store import copy, names, size_of, stable_hash, write_json, write_table
from schemas.manifest import SHARDS, UNITS
from schemas.typed import nearest

NONE = "none"  # stands for samples whose source states no licence

_BY_SOURCE = ("inputs", "candidates", "limits", "counts", "reasons", "text")  # entries of run.json


class ExportError(ValueError):
    """What was asked for cannot be given away like this. The message says what there is, and how to ask for it."""


def export(
    output: OutputFolder, target: Location, licenses: Sequence[str] = (), mixed: bool = False, noncommercial: bool = False
) -> dict[str, Any]:
    """Copy what has one of the licences (none given: all) into `target`, which must not be there or be empty.

    Shards are linked within one file system, else copied; a reader, and `audit verify`, take the folder like any other. Returns
    {"licenses": {licence: samples}, "shards", "bytes", "noncommercial": {weights: samples}}. Raises ExportError for samples of several
    licences unless `mixed`, for scores and members from weights of which the licence forbids commercial use unless `noncommercial`, and
    where `target` is in use; nothing is written then.
    """
    rows = output.table("samples")
    rows = rows.append_column("as_licensed", pc.fill_null(rows["license"], NONE))
    packed = rows.filter(pc.is_valid(rows["shard"]))
    counts = Counter[str](packed["as_licensed"].to_pylist())
    chosen = _chosen(counts, licenses, mixed)
    touched = _touched(packed.filter(pc.is_in(packed["as_licensed"], pa.array(chosen, pa.string()))))
    if touched and not noncommercial:
        named = ", ".join(f"{name} ({license}): {count} samples" for (name, license), count in sorted(touched.items()))
        raise ExportError(
            f"made with weights whose licence forbids commercial use: {named}; take them all the same with --accept-noncommercial"
        )
    if size_of(target) is not None or names(target, below=True):
        raise ExportError(f"{target}: is there already and not empty; give a new folder")
    rows = rows.filter(pc.is_in(rows["as_licensed"], pa.array(chosen, pa.string()))).drop_columns(["as_licensed"])
    shards = _shards(output, rows)
    for name in shards["shard"].to_pylist():
        _copy(output.path / "shards", name, target / "shards")
    _write_manifest(output, target, rows, shards)
    size = sum(shards["bytes"].to_pylist())
    found = {"licenses": {name: counts[name] for name in chosen}, "shards": shards.num_rows, "bytes": size}
    write_json(target / "run.json", _run(output, rows["source"].unique().to_pylist(), found))
    return {**found, "noncommercial": {name: count for (name, _), count in sorted(touched.items())}}


def _chosen(counts: Mapping[str, int], licenses: Sequence[str], mixed: bool) -> list[str]:
    there = "; ".join(f"{name}: {count} samples" for name, count in sorted(counts.items()))
    if not counts:
        raise ExportError("no sample was kept and packed, so there is nothing to export")
    for name in licenses:
        if name not in counts:
            raise ExportError(f"no sample has the licence {name!r}{nearest(name, counts)}; there are {there}")
    chosen = sorted(set(licenses) or set(counts))
    if len(chosen) > 1 and not mixed:
        wanted = "; ".join(f"{name}: {counts[name]} samples" for name in chosen)
        raise ExportError(
            f"the samples have {len(chosen)} licences ({wanted}); choose one with --license, or mix them with --mixed-licenses"
        )
    return chosen


def _touched(packed: pa.Table) -> Counter[tuple[str, str]]:
    """Samples by the non-commercial weights (name, licence) that their scores and members depend on."""
    found = Counter[tuple[str, str]]()
    for weights in packed["weights"].to_pylist():
        found.update({(each["name"], each["license"]) for each in weights or () if each["noncommercial"]})
    return found


def _shards(output: OutputFolder, rows: pa.Table) -> pa.Table:
    """The shards that the rows lie in. A shard is given whole or not at all."""
    shards = output.table("shards")
    shards = shards.filter(pc.is_in(shards["shard"], pc.drop_null(rows["shard"].combine_chunks())))
    inside = Counter(pc.drop_null(rows["shard"]).to_pylist())
    for name, count in zip(shards["shard"].to_pylist(), shards["n_samples"].to_pylist(), strict=True):
        if inside[name] != count:
            raise ExportError(
                f"{name} holds {count} samples, {count - inside[name]} of them of another licence; export them all with --mixed-licenses"
            )
    return shards


def _copy(source: Location, name: str, target: Location) -> None:
    path = safe_shard_path(source, name)
    if path is None:
        raise ExportError(f"{source / name}: is named by the manifest, and is no plain file there; run: python -m pipeline.audit verify")
    copy(path, target / name)


def _write_manifest(output: OutputFolder, target: Location, rows: pa.Table, shards: pa.Table) -> None:
    units = output.table("units")
    units = units.filter(pc.is_in(units["unit"], rows["unit"].combine_chunks()))
    for name, table in (
        ("shards", shards.cast(SHARDS)),
        ("samples", rows.cast(output.dataset("samples").schema)),
        ("units", units.cast(UNITS)),
    ):
        write_table(target / "manifest" / name / "part-00000.parquet", table)


def _run(output: OutputFolder, sources: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """run.json of the whole, without what belongs to other sources or to all of them together."""
    document = {name: value for name, value in output.run.items() if name != "error_budget"}
    for name in _BY_SOURCE:
        if isinstance(document.get(name), Mapping):
            document[name] = {source: value for source, value in document[name].items() if source in sources}
    recipe = document.get("recipe")
    if isinstance(recipe, Mapping) and isinstance(recipe.get("sources"), Mapping):
        document["recipe"] = {**recipe, "sources": {name: value for name, value in recipe["sources"].items() if name in sources}}
        document["recipe_sha256"] = stable_hash(document["recipe"])
    return {**document, "shards": {"count": found["shards"], "bytes": found["bytes"]}, "exported": {"licenses": found["licenses"]}}


def format_export(found: Mapping[str, Any], target: Location) -> str:
    """For a terminal."""
    lines = [f"{name}: {count} samples" for name, count in found["licenses"].items()]
    lines += [f"made with non-commercial {name}: {count} samples" for name, count in found["noncommercial"].items()]
    return "\n".join([*lines, f"{found['shards']} shards, {found['bytes'] / 1e6:.1f} MB in {target}"])
