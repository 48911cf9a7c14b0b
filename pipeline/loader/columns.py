"""The manifest's rows as columns of numbers, thousands at a time: no Python object per sample, pair or member."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.loader.manifest import CatalogError, Manifest

_ANGLES = ("parallax", "axis", "rotation")
_COLUMNS = [
    *("sample_id", "status", "is_sample", "split", "license", "has_text", "n_frames", "shard", "content_sha256", "view_ids.list.element"),
    *("pairs.list.element.a", "pairs.list.element.b", *(f"pairs.list.element.{kind}_deg.max" for kind in _ANGLES)),
    *("notes.key_value.key", "notes.key_value.value"),
]
_MEMBER_COLUMNS = ["shard", *(f"members.list.element.{name}" for name in ("sample_id", "name", "offset", "size"))]


@dataclass(frozen=True, eq=False)
class MemberTable:
    """Members of N samples, M of all shards. Those of sample i lie at start[i]:start[i]+count[i].

    start, count [N] int64. name [M] int32: position in `names`. offset, size [M] int64: bytes within the shard.
    """

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    name: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    names: list[str]


def read_rows(manifest: Manifest) -> tuple[pa.Table, int]:
    """Kept, packed samples with their pairs reduced to numbers, and how many there are."""
    batches = []
    for batch in manifest.batches("samples", _COLUMNS):
        kept = pc.and_(pc.and_(pc.equal(batch["status"], "kept"), batch["is_sample"]), pc.is_valid(batch["shard"]))
        batch = batch.filter(kept)
        a, b, angle = _pair_columns(batch)
        plain = batch.select(["sample_id", "split", "license", "has_text", "n_frames", "shard", "content_sha256", "view_ids"])
        batches.append(plain.append_column("a", a).append_column("b", b).append_column("angle", angle))
    table = pa.Table.from_batches(batches) if batches else None
    if table is None or len(table) == 0:
        raise CatalogError(f"{manifest.location}: no sample was kept and packed; `python -m pipeline.audit` shows why")
    return table, len(table)


def _pair_columns(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Of every row the positions a, b of its pairs' views and their angle, as lists. Pairs without an angle are left out."""
    rows = np.arange(len(batch))
    n_views, n_pairs = (pc.fill_null(pc.list_value_length(batch[name]), 0).to_numpy() for name in ("view_ids", "pairs"))
    views, flat = pc.list_flatten(batch["view_ids"]), pc.list_flatten(batch["pairs"])
    angles = {kind: pc.struct_field(flat, [f"{kind}_deg", "max"]).to_numpy(zero_copy_only=False) for kind in _ANGLES}
    owner = np.repeat(rows, n_pairs)
    angle = np.where(np.isnan(angles["parallax"]), angles["axis"], angles["parallax"])
    named = _angle_notes(batch)[owner]
    for number, kind in enumerate(_ANGLES):
        angle = np.where((named == number) & ~np.isnan(angles[kind]), angles[kind], angle)
    # Names to positions, for all rows at once: (row, name) as one number, looked up among those of the views.
    names = pa.concat_arrays([views, pc.struct_field(flat, ["a"]), pc.struct_field(flat, ["b"])]).dictionary_encode()
    codes = pc.fill_null(names.indices, len(names.dictionary)).to_numpy().astype(np.int64)
    stride = len(names.dictionary) + 1
    of_view, of_a, of_b = np.split(codes, [len(views), len(views) + len(flat)])
    keys = np.repeat(rows, n_views) * stride + of_view
    first = np.concatenate([[0], np.cumsum(n_views)])[:-1]
    known_a, a = _find(keys, owner * stride + of_a)
    known_b, b = _find(keys, owner * stride + of_b)
    chosen = known_a & known_b & ~np.isnan(angle)
    ends = np.concatenate([[0], np.cumsum(np.bincount(owner[chosen], minlength=len(rows)))]).astype(np.int32)
    values = ((a - first[owner])[chosen].astype(np.int16), (b - first[owner])[chosen].astype(np.int16), angle[chosen].astype(np.float32))
    made = [pa.ListArray.from_arrays(pa.array(ends), pa.array(each)) for each in values]
    return made[0], made[1], made[2]


def _angle_notes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """[rows] which of _ANGLES the recipe's curriculum used, by the row's own note; -1 where it does not say."""
    notes, named = batch["notes"], np.full(len(batch), -1)
    if notes.null_count == len(notes):
        return named
    counts = pc.fill_null(pc.list_value_length(notes.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])))), 0)
    flat = pc.list_flatten(notes.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))))
    is_angle = pc.equal(pc.struct_field(flat, ["key"]), "angle").to_numpy(zero_copy_only=False).astype(bool)
    values = pc.index_in(pc.struct_field(flat, ["value"]), pa.array(_ANGLES)).fill_null(-1).to_numpy()
    named[np.repeat(np.arange(len(batch)), counts.to_numpy())[is_angle]] = values[is_angle]
    return named


def _find(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `wanted` are among `keys`, and where."""
    if len(keys) == 0:
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.int64)
    order = np.argsort(keys, kind="stable")
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return keys[at] == wanted, at


def read_members(manifest: Manifest, ids: pa.Array) -> MemberTable:
    """Members of the given samples, from the `shards` table. Raises CatalogError for a sample without any, and for a member that lacks
    its sample, name or place."""
    runs, counts, names, offsets, sizes = [], [], [], [], []
    vocabulary: dict[str, int] = {}
    for batch in manifest.batches("shards", _MEMBER_COLUMNS):
        flat = pc.list_flatten(batch["members"])
        columns = {name: pc.struct_field(flat, [name]) for name in ("sample_id", "name", "offset", "size")}
        for column, values in columns.items():
            if lacking := values.null_count:
                raise CatalogError(
                    f"{manifest.location}: in the shards table {lacking} members have no {column}: it is damaged; run pipeline.curate again"
                )
        encoded = pc.run_end_encode(columns["sample_id"])
        runs.append(encoded.values)
        counts.append(np.diff(encoded.run_ends.to_numpy(), prepend=0))
        name = columns["name"].dictionary_encode()
        known = [vocabulary.setdefault(each, len(vocabulary)) for each in name.dictionary.to_pylist()]
        names.append(np.array(known, np.int32)[name.indices.to_numpy()] if known else np.zeros(0, np.int32))
        offsets.append(columns["offset"].to_numpy())
        sizes.append(columns["size"].to_numpy())
    all_runs, count = pa.chunked_array(runs, pa.string()), np.concatenate(counts).astype(np.int64)
    at = pc.index_in(ids, all_runs.combine_chunks())
    if at.null_count:
        lost = ids.filter(pc.is_null(at))
        raise CatalogError(
            f"{manifest.location}: the shards table has no members of {len(lost)} samples ({lost[0].as_py()}, ...); "
            "run pipeline.curate again"
        )
    start = np.concatenate([[0], np.cumsum(count)])[:-1]
    position = at.to_numpy()
    return MemberTable(
        start[position], count[position], np.concatenate(names), np.concatenate(offsets), np.concatenate(sizes), list(vocabulary)
    )
