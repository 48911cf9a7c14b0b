"""Which samples there are to train on: the manifest's kept, packed rows as arrays. Nothing else of the folder is read.

A million samples are a few hundred megabytes of NumPy and Arrow columns; objects per sample are made when asked for.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.loader.batch import KINDS, Kind
from pipeline.loader.columns import MemberTable, read_members, read_rows
from pipeline.loader.manifest import CatalogError, Manifest
from pipeline.selection import kept_ids, packing_command
from schemas.typed import nearest

__all__ = ["Catalog", "CatalogError", "Member", "Pairs"]

UNKNOWN = -1  # in `frames`: the manifest does not say how many


@dataclass(frozen=True)
class Member:
    """One file of a sample inside a shard. shard: path below DIR/shards; offset: of its first byte in the shard."""

    sample_id: str
    name: str
    shard: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """View pairs with a known angle, sample by sample. Those of sample i lie at start[i]:start[i+1].

    start [N+1] int64. a, b [P] int16: positions in the sample's views. angle [P] float32: degrees.
    """

    start: NDArray[np.int64]
    a: NDArray[np.int16]
    b: NDArray[np.int16]
    angle: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Catalog:
    """N samples in the order of the shards: by shard name, then by offset. Make one with `Catalog.open`.

    digest: hex sha256 over the sorted (sample_id, content_sha256, shard) of the chosen samples. The shard's name stands for the
    place in the shard (it holds a hash of what was packed in which order), which the order of training depends on.
    kinds [N] int8: positions in KINDS. n_views, frames [N] int32: frames of the packed media, UNKNOWN where not known.
    texts [N] bool. shards [N] int32: ascending numbers of the shards. pairs: angles between views. licenses: samples by licence, "none"
    where the recipe stated none, most first.
    encoding: how `pipeline.encode_latents` made the folder; None for a folder with pictures.
    """

    location: str
    digest: str
    kinds: NDArray[np.int8]
    n_views: NDArray[np.int32]
    frames: NDArray[np.int32]
    texts: NDArray[np.bool_]
    shards: NDArray[np.int32]
    pairs: Pairs
    licenses: Mapping[str, int]
    encoding: Mapping[str, Any] | None
    _ids: pa.Array
    _view_ids: pa.Array
    _shard_names: list[str]
    _members: MemberTable

    @classmethod
    def open(cls, location: str | Path, selection: str | None = None, split: str | None = None) -> "Catalog":
        """Read the manifest of an output folder (a path or an fsspec URL) of pipeline.curate or pipeline.encode_latents.

        selection: NAME of DIR/selections/NAME.txt, one sample id a line, `#` begins a comment; or of NAME.parquet, which
        `audit what-if --write NAME` makes. split: only rows with this split.
        Raises CatalogError for anything unusable, saying what there is instead.
        """
        manifest = Manifest(str(location))
        wanted = None if selection is None else _read_selection(manifest, selection)
        rows, packed = read_rows(manifest)
        if wanted is not None:
            rows = rows.filter(_selected(manifest, rows, wanted, packed))
        if split is not None:
            rows = _of_split(rows, split)
        return _build(manifest, rows)

    def __len__(self) -> int:
        return len(self.kinds)

    def sample_id(self, i: int) -> str:
        return str(self._ids[i].as_py())

    def view_ids(self, i: int) -> list[str]:
        """Names of the views; view k is the member view{k:02d}.*"""
        return list(self._view_ids[i].as_py())

    def n_frames(self, i: int) -> int | None:
        """Frames of the packed media, the least over the views; None where the manifest does not say."""
        return None if self.frames[i] == UNKNOWN else int(self.frames[i])

    def kind(self, i: int) -> Kind:
        return KINDS[self.kinds[i]]

    def has_text(self, i: int) -> bool:
        return bool(self.texts[i])

    def members(self, i: int) -> dict[str, Member]:
        """The sample's files by name: "view00.mp4", "cameras.npz", ..."""
        table, sample_id, shard = self._members, self.sample_id(i), self._shard_names[self.shards[i]]
        rows = range(int(table.start[i]), int(table.start[i] + table.count[i]))
        names = [table.names[table.name[row]] for row in rows]
        return {
            name: Member(sample_id, name, shard, int(table.offset[row]), int(table.size[row]))
            for name, row in zip(names, rows, strict=True)
        }

    def angle(self, i: int) -> NDArray[np.float32]:
        """[V,V] degrees between views, largest over frames; NaN where unknown, 0 on the diagonal.

        Of the kind that the recipe named for the curriculum; where it is undefined, parallax, else the optical axes.
        """
        n, pairs = int(self.n_views[i]), self.pairs
        rows = slice(int(pairs.start[i]), int(pairs.start[i + 1]))
        angle = np.full((n, n), np.nan, np.float32)
        angle[pairs.a[rows], pairs.b[rows]] = angle[pairs.b[rows], pairs.a[rows]] = pairs.angle[rows]
        np.fill_diagonal(angle, 0)
        return angle


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The ids of a selection, and where they were read. name: of one that `audit what-if` wrote, whose samples may not be stored."""

    ids: pa.Array
    where: str
    name: str | None = None


def _read_selection(manifest: Manifest, name: str) -> _Wanted:
    """Raises CatalogError where there is no such selection, or it names nothing."""
    plain = not ("/" in name or "\\" in name or name in ("", ".", ".."))
    text = manifest.text("selections", f"{name}.txt") if plain else None
    where = f"{manifest.location}/selections/{name}.txt"
    if text is None:
        data = manifest.data("selections", f"{name}.parquet") if plain else None
        if data is not None:
            return _asked(data, f"{manifest.location}/selections/{name}.parquet", name)
        there = sorted({*manifest.names("selections", ".txt"), *manifest.names("selections", ".parquet")})
        hint = nearest(name, there) if there else "; there is none: write one sample id a line into it"
        raise CatalogError(f"{where}: no such selection{hint}")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    ids = list(dict.fromkeys(line for line in lines if line))
    if not ids:
        raise CatalogError(f"{where}: names no sample; write one sample id a line")
    return _Wanted(pa.array(ids, pa.string()), where)


def _asked(data: bytes, where: str, name: str) -> _Wanted:
    try:
        ids = kept_ids(data)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CatalogError(f"{where}: cannot be read ({error}); write the selection again") from None
    if not len(ids):
        raise CatalogError(f"{where}: keeps no sample; write it with other limits")
    return _Wanted(ids, where, name)


def _selected(manifest: Manifest, rows: pa.Table, wanted: _Wanted, packed: int) -> pa.ChunkedArray:
    """Mask of the wanted rows. Raises CatalogError that counts and names unknown ids, and says what packs them where something does."""
    unknown = wanted.ids.filter(pc.invert(pc.is_in(wanted.ids, rows["sample_id"].combine_chunks())))
    if len(unknown):
        example = ", ".join(unknown[:3].to_pylist()) + (", ..." if len(unknown) > 3 else "")
        hint = f"there are {packed}, for example {rows['sample_id'][0].as_py()}"
        if wanted.name is not None:
            hint = f"pack them: {packing_command(manifest.location, manifest.run(), wanted.name)}"
        raise CatalogError(
            f"{wanted.where}: {len(unknown)} of {len(wanted.ids)} ids are no kept and packed sample here ({example}); {hint}"
        )
    return pc.is_in(rows["sample_id"], wanted.ids)


def _of_split(rows: pa.Table, split: str) -> pa.Table:
    chosen = rows.filter(pc.equal(rows["split"], split))
    if len(chosen) == 0:
        there = {str(each["values"]): each["counts"] for each in pc.value_counts(rows["split"]).to_pylist()}
        listed = ", ".join(f"{'(no split)' if name == 'None' else name}: {count}" for name, count in sorted(there.items()))
        raise CatalogError(f"no sample has the split {split!r}; samples by split: {listed}")
    return chosen


def _build(manifest: Manifest, rows: pa.Table) -> Catalog:
    rows = rows.combine_chunks()
    members = read_members(manifest, rows["sample_id"].combine_chunks())
    shard_names = sorted(set(rows["shard"].unique().to_pylist()))
    shards = pc.index_in(rows["shard"].combine_chunks(), pa.array(shard_names, pa.string())).to_numpy().astype(np.int32)
    order = np.lexsort((members.offset[members.start], shards))
    rows = rows.take(pa.array(order)).combine_chunks()
    column = {name: rows[name].chunk(0) for name in rows.column_names}
    n_views = pc.list_value_length(column["view_ids"]).to_numpy().astype(np.int32)
    frames = pc.fill_null(column["n_frames"], UNKNOWN).to_numpy().astype(np.int32)
    n_pairs = pc.list_value_length(column["a"]).to_numpy().astype(np.int64)
    flat = {name: pc.list_flatten(column[name]).to_numpy(zero_copy_only=False) for name in ("a", "b", "angle")}
    encoding = manifest.run().get("encoding")
    return Catalog(
        location=manifest.location,
        digest=_digest(rows),
        kinds=_kinds(n_views, frames),
        n_views=n_views,
        frames=frames,
        texts=column["has_text"].to_numpy(zero_copy_only=False).astype(bool),
        shards=shards[order],
        pairs=Pairs(np.concatenate([[0], np.cumsum(n_pairs)]), flat["a"], flat["b"], flat["angle"]),
        licenses=dict(Counter[str](pc.fill_null(column["license"], "none").to_pylist()).most_common()),
        encoding=encoding if isinstance(encoding, Mapping) else None,
        _ids=column["sample_id"],
        _view_ids=column["view_ids"],
        _shard_names=shard_names,
        _members=MemberTable(members.start[order], members.count[order], members.name, members.offset, members.size, members.names),
    )


def _kinds(n_views: NDArray[np.int32], frames: NDArray[np.int32]) -> NDArray[np.int8]:
    """By the numbers of views and frames alone. Media of unknown length counts as video; it is never eligible."""
    video, images, single = (KINDS.index(kind) for kind in ("multiview_video", "multiview_images", "singleview_video"))
    return np.where(n_views < 2, single, np.where(frames == 1, images, video)).astype(np.int8)


def _digest(rows: pa.Table) -> str:
    """Over one line a sample, in the order of the ids."""
    columns = [pc.fill_null(rows[name], "").cast(pa.large_string()) for name in ("sample_id", "content_sha256", "shard")]
    lines = pc.binary_join_element_wise(*columns, pa.scalar("\t", pa.large_string())).take(pc.sort_indices(columns[0]))
    digest = sha256()
    for chunk in pa.chunked_array(lines).chunks:
        digest.update("\n".join([*chunk.to_pylist(), ""]).encode())
    return digest.hexdigest()
